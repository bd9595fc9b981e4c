// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package definitions

import (
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/weir-project/weir/test/etcd"
	"github.com/weir-project/weir/test/servers"
	"github.com/weir-project/weir/test/webhook"
)

// TestWebhookRead measures what the first list in a version costs that a webhook converts to. It judges nothing. WEIR_WIDGETS is how many objects
// there are. The webhook runs in the test's own process.
func TestWebhookRead(t *testing.T) {
	n, err := strconv.Atoi(os.Getenv("WEIR_WIDGETS"))
	if err != nil {
		t.Skip("WEIR_WIDGETS is not given")
	}
	for name, flags := range map[string][]string{servers.Stock: nil, servers.Weir: nil, "weir-one-by-one": {"--feature-gates=BatchedConversion=false"}} {
		t.Run(name, func(t *testing.T) {
			program := servers.Weir
			if name == servers.Stock {
				program = name
			}
			store := etcd.Run(t)
			s := servers.Start(t, program, store.Endpoints()[0], flags...).Wait()
			h := &hooked{versioned: versioned{pair: pair{s, s}}, store: store, group: "read.example.com"}
			h.hook = webhook.Start(t, h.convert)
			h.define(t, n)
			before, err := s.Rig.Usage()
			if err != nil {
				t.Fatal(err)
			}
			start := time.Now()
			h.lists(t, s, "v2", n)
			took := time.Since(start)
			after, err := s.Rig.Usage()
			if err != nil {
				t.Fatal(err)
			}
			asked := h.hook.Asked()
			t.Logf("%s: %d objects in v2 after %v, %v of CPU; %d requests about %d objects, in v3 as well", name, n, took, after.CPU-before.CPU, asked.Requests, asked.Objects)
		})
	}
}
