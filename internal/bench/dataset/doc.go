// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

// Package dataset makes the objects that servers are measured on.
//
//	Place ---> Set ---> Load ---> Count
//	  |         |         |         |
//	where     a, b, c, d  once;   as many as readers must see
//	          objects     marked
//
// A Place is a cluster of bench's own, with many namespaces, or one namespace of somebody else's. A Set is a number of
// objects that are the same in every run: sizes, names and contents follow from the object's number. What a scenario makes
// beside the sets, it makes at the same Place, marked with ScenarioLabel, and removes.
package dataset
