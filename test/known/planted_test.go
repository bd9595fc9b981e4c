// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package known

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/weir-project/weir/test/robustness/lies"
)

// edit puts a fault into one of weir's sources, in an overlay of the go command.
type edit struct {
	// file is a path below internal/, find a text that stands in it exactly once, and put what stands there in its place.
	file, find, put string
}

// planted are faults like those that the scenarios are about, by the scenario that has to see them. In put, FAULT is whether
// the fault of this scenario happens, and ONE is 1 then, and 0 otherwise.
var planted = map[string][]edit{
	"kubernetes-49956": {{"eventlog/cursor.go", "if rev < l.floor {", "if rev+ONE < l.floor {"}},
	"kubernetes-73845": {{"watchcache/watch.go", "c.followScope(ctx, gen, rev, opts.Predicate)", `c.followScope(ctx, gen, rev-map[bool]uint64{true: ONE}[len(key) > 18 && key[:18] == "/configmaps/known-"], opts.Predicate)`}},
	"kubernetes-107133": {{"watchcache/follower.go", "if delegator.ConsistentReadSupported() {\n\t\tc.progress.Add()\n\t\tdefer c.progress.Remove()\n\t}",
		"if !(FAULT && c.cfg.GroupResource.Resource == \"runtimeclasses\") && delegator.ConsistentReadSupported() {\n\t\tc.progress.Add()\n\t\tdefer c.progress.Remove()\n\t}"}},
	"kubernetes-116122": {{"watchcache/follower.go", "if gen != nil {\n\t\tgen.log.Close()", "if gen != nil && !(FAULT && c.cfg.GroupResource.Resource == \"configmaps\") {\n\t\tgen.log.Close()"}},
	"kubernetes-122805": {{"watchcache/watch.go", "w.end = isWatchList(opts)", `w.end = isWatchList(opts) && !(FAULT && opts.ResourceVersion == "" && len(key) > 18 && key[:18] == "/configmaps/known-")`}},
	"kubernetes-123072-slow": {{"watchcache/source.go", "\t\tdefault:\n\t\t\treturn err\n\t\t}\n\t\tif !s.cache.pause(ctx) {",
		"\t\tcase FAULT:\n\t\t\ts.rev, _ = s.cache.cfg.Storage.GetCurrentResourceVersion(ctx)\n\t\tdefault:\n\t\t\treturn err\n\t\t}\n\t\tif !s.cache.pause(ctx) {"}},
	"kubernetes-123072-previous": {{"watchcache/source.go", "case apierrors.IsInternalError(err):\n",
		"case FAULT && apierrors.IsInternalError(err):\n\t\t\ts.rev, _ = s.cache.cfg.Storage.GetCurrentResourceVersion(ctx)\n\t\tcase apierrors.IsInternalError(err):\n"}},
	"kubernetes-125133":        {{"watchcache/scope.go", "&& namespace == name {", "&& namespace == name && !FAULT {"}},
	"kubernetes-138631-135115": {{"watchcache/read.go", "accessor.SetResourceVersion(fmt.Sprint(f.Revision()))", "accessor.SetResourceVersion(fmt.Sprint(f.Revision() + ONE))"}},
	"etcd-15220-lie":           {{"eventlog/log.go", "r.rev < l.head || r.rev <= l.advanced {", "!FAULT && (r.rev < l.head || r.rev <= l.advanced) {"}},
	"etcd-15220-reads":         {{"watchcache/read.go", "gen, at, v, err := c.reach(ctx, rev)\n\tif err != nil {\n\t\treturn selection{}, err", "if FAULT {\n\t\trev = 0\n\t}\n\tgen, at, v, err := c.reach(ctx, rev)\n\tif err != nil {\n\t\treturn selection{}, err"}},
	"etcd-17247":               {{"watchcache/source.go", "case prev != nil && f.Revision() <= prev.Revision():", "case prev != nil && f.Revision() <= prev.Revision() && !FAULT:"}},
	"etcd-18089-lie":           {{"watchcache/source.go", "if is.GetUID() != was.GetUID() {", "if is.GetUID() != was.GetUID() && !FAULT {"}},
	"etcd-18089-19179":         {{"watchcache/source.go", "\tif event.Type == watch.Error {\n", "\tif FAULT && event.Type == watch.Error && s.gen != nil {\n\t\ts.rev, _ = c.cfg.Storage.GetCurrentResourceVersion(ctx)\n\t\treturn apierrors.NewInternalError(errors.New(\"planted\"))\n\t}\n\tif event.Type == watch.Error {\n"}},
	"etcd-20221-lie":           {{"watchcache/source.go", "if f.Revision() < s.rev {", "if was, _ := s.state.objects.Get(key); FAULT && f.Revision() < s.rev {\n\t\treturn s.append(&change{rev: s.rev + 1, prev: was, cur: f, recorded: received, received: received})\n\t}\n\tif f.Revision() < s.rev {"}},
	"etcd-20655":               {{"eventlog/cursor.go", "pos: pos, after: rev}", "pos: pos + ONE, after: rev}"}},
	"future-revision":          {{"eventlog/cursor.go", "\tl.cursors[cursor] = struct{}{}\n\treturn cursor, nil", "\tif FAULT {\n\t\tcursor.after = 0\n\t}\n\tl.cursors[cursor] = struct{}{}\n\treturn cursor, nil"}},
	"too-large-revision":       {{"watchcache/follower.go", "case <-timeout.C():\n\t\t\treturn nil, 0, view{}, storage", "case <-timeout.C():\n\t\t\tif FAULT {\n\t\t\t\treturn gen, at, v, nil\n\t\t\t}\n\t\t\treturn nil, 0, view{}, storage"}},
	"changing-definition":      {{"watchcache/source.go", "\ts.state.set(f)\n\treturn nil\n}\n\n// ready", "\tif !(FAULT && s.cache.cfg.GroupResource.Resource == \"knowns\") || s.state.objects.Len() == 0 {\n\t\ts.state.set(f)\n\t}\n\treturn nil\n}\n\n// ready"}},
	"TestRestored":             {{"watchcache/follower.go", "if err != nil || rev >= before {", "if err != nil || rev >= before || FAULT {"}},
}

// plantedRun, in the environment, names the scenarios that TestPlanted is to run.
const plantedRun = "WEIR_KNOWN_PLANTED"

// plant writes the changed sources into a directory and returns the path of an overlay.
func plant(t *testing.T, dir string) string {
	t.Helper()
	words := strings.NewReplacer("FAULT", "(LYING)", "ONE", "func() uint64 { if LYING { return 1 }; return 0 }()")
	var all []lies.Lie
	for scenario, edits := range planted {
		lie := lies.Lie{Name: scenario}
		for _, e := range edits {
			lie.Edits = append(lie.Edits, lies.Edit{File: e.file, Find: e.find, Put: words.Replace(e.put)})
		}
		all = append(all, lie)
	}
	overlay, err := lies.Plant("../../internal", dir, all)
	if err != nil {
		t.Fatal(err)
	}
	return overlay
}

// TestPlants finds out, at no cost, whether the faults can still be planted.
func TestPlants(t *testing.T) { plant(t, t.TempDir()) }

// TestPlanted has a weir with a fault for each scenario, which has to fail by it: half a minute for each. WEIR_KNOWN_PLANTED is
// "all", or names with commas between.
func TestPlanted(t *testing.T) {
	asked := os.Getenv(plantedRun)
	if asked == "" {
		t.Skipf("takes half a minute for each; set %s to all, or to names with commas between", plantedRun)
	}
	dir := t.TempDir()
	program := filepath.Join(dir, "faulty.test")
	cmd := exec.CommandContext(t.Context(), "go", "test", "-c", "-ldflags=-s -w", "-overlay="+plant(t, dir), "-o", program, ".")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build weir with faults: %v\n%s", err, out)
	}
	for scenario := range planted {
		if asked != "all" && !strings.Contains(","+asked+",", ","+scenario+",") {
			continue
		}
		t.Run(scenario, func(t *testing.T) {
			pattern, failure := "^TestKnown$/^"+scenario+"$", "--- FAIL: TestKnown/"+scenario+" "
			if strings.HasPrefix(scenario, "Test") {
				pattern, failure = "^"+scenario+"$", "--- FAIL: "+scenario+" "
			}
			cmd := exec.CommandContext(t.Context(), program, "-test.run="+pattern, "-test.timeout=5m")
			cmd.Env = append(os.Environ(), lies.Env+"="+scenario, plantedRun+"=")
			out, err := cmd.CombinedOutput()
			if err == nil || !strings.Contains(string(out), failure) {
				t.Errorf("it does not see the fault: %v\n%.3000s", err, out)
			}
			t.Logf("%.1200s", out)
		})
	}
}
