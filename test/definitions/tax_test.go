// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package definitions

import (
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/weir-project/weir/test/etcd"
	"github.com/weir-project/weir/test/servers"
)

// TestTax measures what definitions without objects cost a server. It judges nothing. WEIR_DEFINITIONS is their number, 300
// for the figures in the documentation; WEIR_PROGRAMS are the servers to measure, one after the other.
func TestTax(t *testing.T) {
	n, err := strconv.Atoi(os.Getenv("WEIR_DEFINITIONS"))
	if err != nil {
		t.Skip("WEIR_DEFINITIONS is not given")
	}
	for _, program := range programs(servers.Stock, "weir-openapi-off", servers.Weir) {
		t.Run(program, func(t *testing.T) { measureTax(t, program, n) })
	}
}

// programs are the servers to measure: those of WEIR_PROGRAMS, or all.
func programs(all ...string) []string {
	if chosen := os.Getenv("WEIR_PROGRAMS"); chosen != "" {
		return strings.Split(chosen, ",")
	}
	return all
}

// started is how a server to measure is started: stock, weir, or weir with other gates.
func started(program string) (name string, flags []string) {
	switch program {
	case "weir-openapi-off":
		return servers.Weir, []string{"--feature-gates=OpenAPIOnDemand=false"}
	case "weir-decoded":
		return servers.Weir, []string{"--feature-gates=UndecodedCustomResources=false"}
	case "weir-on-demand":
		return servers.Weir, []string{"--feature-gates=CustomResourceCachesOnDemand=true"}
	case "weir-apart":
		return servers.Weir, []string{"--feature-gates=SharedCustomResourceStore=false"}
	}
	return program, nil
}

// rest is how long a server is left alone before its memory is read.
const rest = 40 * time.Second

func measureTax(t *testing.T, program string, n int) {
	name, flags := started(program)
	s := servers.Start(t, name, etcd.Run(t).Endpoints()[0], flags...).Wait()
	report := func(stage string) {
		t.Helper()
		select {
		case <-time.After(rest):
		case <-s.Rig.Done():
		}
		used, err := s.Rig.Usage()
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Rig.Collect(t.Context()); err != nil {
			t.Fatal(err)
		}
		m, err := s.Rig.Metrics(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%-28s RSS %5d MB, live heap %5d MB, CPU %6.1f s, %6d goroutines", stage, used.RSS>>20, m.Heap.Alloc>>20, used.CPU, m.Goroutines)
	}
	report("empty")
	for i := range n {
		s.Must(http.MethodPost, crds, described(i))
	}
	report(fmt.Sprintf("%d definitions created", n))
	for i := range n {
		for _, version := range []string{"v1", "v2"} {
			path := fmt.Sprintf("/apis/g%d.example.com/%s/kind%ds", i, version, i)
			servers.Eventually(t, path, func() bool { status, _ := s.Do(http.MethodGet, path, nil); return status == http.StatusOK })
		}
	}
	report("each listed in each version")
	if strings.HasSuffix(program, "on-demand") {
		select {
		case <-time.After(3 * time.Minute): // after which nobody has used them for long enough
		case <-s.Rig.Done():
		}
		report("three minutes later")
	}
	began := time.Now()
	status, root := s.Do(http.MethodGet, v3, nil)
	t.Logf("/openapi/v3: %d, %d bytes, %v", status, len(root), time.Since(began))
	report("after /openapi/v3")
	began = time.Now()
	status, document := s.Do(http.MethodGet, v2, nil)
	t.Logf("/openapi/v2: %d, %d bytes, %v", status, len(document), time.Since(began))
	report("after /openapi/v2")
}

// described is a definition like a middle-sized operator's: two versions, 600 described properties in each.
func described(i int) object {
	schema := func(version string) object {
		groups := object{}
		for g := range 30 {
			fields := object{}
			for f := range 20 {
				fields[fmt.Sprintf("field%d", f)] = object{"type": "string", "description": fmt.Sprintf(
					"Field %d of group %d of kind %d in %s says what is wanted of it, and what happens if it is left out.", f, g, i, version)}
			}
			groups[fmt.Sprintf("group%d", g)] = object{"type": "object", "description": fmt.Sprintf("Group %d of settings.", g), "properties": fields}
		}
		return properties(object{"spec": properties(groups)})
	}
	return define(fmt.Sprintf("g%d.example.com", i), fmt.Sprintf("Kind%d", i), "Namespaced",
		version("v1", true, schema("v1"), object{"subresources": object{"status": object{}}}), version("v2", false, schema("v2"), nil))
}
