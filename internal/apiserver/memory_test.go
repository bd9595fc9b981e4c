// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"strings"
	"testing"

	"github.com/weir-project/weir/internal/pacer"
)

// TestMemoryLimitFlag: what is no limit is refused by the name of the flag.
func TestMemoryLimitFlag(t *testing.T) {
	for text, want := range map[string]int64{"1Gi": 1 << 30, "1.5Gi": 3 << 29, "2G": 2e9, "0": 0, "268435456": 256 << 20} {
		if o, err := Parse("--memory-limit=" + text); err != nil || o.MemoryLimit != want {
			t.Errorf("%s is %d bytes, want %d: %v", text, o.MemoryLimit, want, err)
		}
	}
	for _, text := range []string{"", "much", "-1Gi", "1Kb", "100m", "255Mi"} {
		if _, err := Parse("--memory-limit=" + text); err == nil || !strings.Contains(err.Error(), "--memory-limit") {
			t.Errorf("%q: %v", text, err)
		}
	}
	if o, err := Parse(); err != nil || o.MemoryLimit != pacer.Automatic {
		t.Errorf("not given it is %d: %v", o.MemoryLimit, err)
	}
}
