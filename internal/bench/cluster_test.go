// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"slices"
	"testing"

	"github.com/weir-project/weir/internal/bench/dataset"
	"github.com/weir-project/weir/internal/bench/scenario"
)

// What is asked for is what scenarios do, and no more.
func TestNeedsFollowScenarios(t *testing.T) {
	asked := func(scenarios []scenario.Scenario, extra ...string) (all []string) {
		for _, n := range needs(scenarios, extra, dataset.Place{Only: "mine", Run: "0a1b2c3d"}) {
			for _, verb := range n.verbs {
				all = append(all, verb+" "+n.resource+n.path)
			}
		}
		return all
	}
	base := []string{"create namespaces", "get namespaces", "delete namespaces", "get /metrics"}
	for _, test := range []struct {
		name      string
		got, want []string
	}{
		{"secrets", asked([]scenario.Scenario{&scenario.Read{Dataset: "a"}}), []string{"create secrets", "list secrets", "watch secrets", "deletecollection secrets"}},
		{"fanout", asked([]scenario.Scenario{&scenario.Fanout{}}), []string{
			"create configmaps", "list configmaps", "watch configmaps", "deletecollection configmaps", "update configmaps"}},
		{"extra data", asked([]scenario.Scenario{&scenario.Fanout{}}, "a"), []string{
			"create secrets", "list secrets", "watch secrets", "deletecollection secrets",
			"create configmaps", "list configmaps", "watch configmaps", "deletecollection configmaps", "update configmaps"}},
		{"pods", asked([]scenario.Scenario{&scenario.Watchers{}}), []string{
			"update pods/status", "create serviceaccounts", "deletecollection serviceaccounts",
			"create pods", "list pods", "watch pods", "deletecollection pods"}},
	} {
		if want := append(slices.Clone(base), test.want...); !slices.Equal(test.got, want) {
			t.Errorf("%s: needs %q\nwant %q", test.name, test.got, want)
		}
	}
}
