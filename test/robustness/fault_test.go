// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package robustness

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/weir-project/weir/internal/rig/link"
)

// A fault of a link is seen to do what it is there for, and a link that has none is seen to do nothing of it.
func TestLinkFaultsBite(t *testing.T) {
	const size = 40_000
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, strings.Repeat("x", size))
	}))
	t.Cleanup(server.Close)
	newLink := func() *link.Link {
		l, err := link.New(server.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(l.Close)
		return l
	}
	behind := func(l *link.Link) probe {
		return func(ctx context.Context) (int, error) {
			client := &http.Client{Transport: &http.Transport{}}
			defer client.CloseIdleConnections()
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+l.Address(), nil)
			if err != nil {
				return 0, err
			}
			resp, err := client.Do(req)
			if err != nil {
				return 0, err
			}
			defer resp.Body.Close()
			data, err := io.ReadAll(resp.Body)
			return len(data), err
		}
	}
	for _, kind := range []faultKind{
		faultCut, faultDelay, faultThrottle, faultHalfOpen, faultStall,
		faultEtcdCut, faultEtcdDelay, faultEtcdThrottle, faultEtcdHalfOpen, faultEtcdStall,
	} {
		for _, other := range []bool{false, true} {
			if other && kind != faultHalfOpen && kind != faultStall {
				continue // it does not ask for a direction
			}
			l := newLink()
			if err := onLink(t.Context(), fault{kind: kind, other: other, lasts: time.Millisecond}, l, readersRate, behind(l)); err != nil {
				t.Errorf("%s: %v", kind, err)
			}
			if n, err := behind(l)(t.Context()); n != size || err != nil {
				t.Errorf("healed of %s: %d bytes, %v", kind, n, err)
			}
		}
	}
	whole := newLink()
	for what, err := range map[string]error{
		"cut":       refuses(whole),
		"delay":     takes(t.Context(), behind(whole), time.Hour),
		"throttle":  trickles(t.Context(), behind(whole), 1),
		"half open": quiet(t.Context(), behind(whole)),
		"cut off": silent(t.Context(), func(context.Context) error { // what refuses is not silent
			return errors.New("connection refused")
		}),
	} {
		if !errors.Is(err, errNothing) {
			t.Errorf("%s: a link without a fault is taken for one with: %v", what, err)
		}
	}
}
