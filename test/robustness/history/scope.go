// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package history

import (
	"fmt"
	"hash/fnv"
	"math/bits"
	"strings"
)

// Scope is what a list or a watch selects. Empty parts select all.
type Scope struct {
	Resource string `json:"resource"`
	// Version is the one that a custom resource is asked for in, empty for other resources. It selects nothing.
	Version   string `json:"version,omitempty"`
	Namespace string `json:"namespace,omitempty"`
	// ByField says that the namespace is selected by a field selector in place of the path.
	ByField bool   `json:"byField,omitempty"`
	Name    string `json:"name,omitempty"`
	Node    string `json:"node,omitempty"`
	// Field and FieldValue select by one of State.Fields.
	Field      string `json:"field,omitempty"`
	FieldValue string `json:"fieldValue,omitempty"`
	// LabelKey and LabelValue select by one label.
	LabelKey   string `json:"labelKey,omitempty"`
	LabelValue string `json:"labelValue,omitempty"`
	// Shard, of so many Shards, which are a power of two, selects by the hash of the UID. Shards are 0 for all.
	Shard  uint64 `json:"shard,omitempty"`
	Shards uint64 `json:"shards,omitempty"`
}

// String is what the scope selects by, for a person.
func (c Scope) String() string {
	parts := []string{c.Resource}
	add := func(name, value string) {
		if value != "" {
			parts = append(parts, name+"="+value)
		}
	}
	add("version", c.Version)
	if c.ByField {
		add("metadata.namespace", c.Namespace)
	} else {
		add("namespace", c.Namespace)
	}
	add("name", c.Name)
	add("node", c.Node)
	add(c.Field, c.FieldValue)
	add(c.LabelKey, c.LabelValue)
	if c.Shards > 0 {
		add("shard", fmt.Sprintf("%d/%d", c.Shard, c.Shards))
	}
	return strings.Join(parts, " ")
}

// Selects tells whether an object is selected. There is none if s is nil.
func (c Scope) Selects(k Key, s *State) bool {
	return s != nil && c.hasKey(k) &&
		(c.Node == "" || c.Node == s.Node) &&
		(c.Field == "" || s.Fields[c.Field] == c.FieldValue) &&
		(c.LabelKey == "" || s.Labels[c.LabelKey] == c.LabelValue) &&
		(c.Shards == 0 || shard(s.UID, c.Shards) == c.Shard)
}

func (c Scope) hasKey(k Key) bool {
	return c.Resource == k.Resource && (c.Namespace == "" || c.Namespace == k.Namespace) && (c.Name == "" || c.Name == k.Name)
}

// shard is the one of a UID, of n: its hash's highest bits. The hash is that of upstream's shard selectors.
func shard(uid string, n uint64) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(uid)) // never fails
	return h.Sum64() >> shift(n)
}

// shift is how many bits of a hash do not tell its shard, of n.
func shift(n uint64) int { return 64 - bits.TrailingZeros64(n) }

// ShardSelector is the scope's shard as the API server is asked for it, empty for all.
func (c Scope) ShardSelector() string {
	if c.Shards == 0 {
		return ""
	}
	end := "0x10000000000000000" // 2^64
	if c.Shard+1 < c.Shards {
		end = fmt.Sprintf("0x%016x", (c.Shard+1)<<shift(c.Shards))
	}
	return fmt.Sprintf("shardRange(object.metadata.uid, '0x%016x', '%s')", c.Shard<<shift(c.Shards), end)
}
