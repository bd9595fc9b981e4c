// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/util/validation"
)

// On a shared cluster nothing is read or written outside of the run's namespace and API group.
func TestSharedPlaceIsOneNamespace(t *testing.T) {
	at := place{only: "mine", run: "0a1b2c3d"}
	for _, d := range []Dataset{secretsData(at, 9, 9), podsData(at, 9), configMapsData(at, 9, 9), customResourcesData(at, 9)} {
		for _, path := range d.Resources {
			if !strings.Contains(path, "/namespaces/mine/") {
				t.Errorf("dataset %s is read at %s", d.Name, path)
			}
			if strings.HasPrefix(path, "/apis/") && !strings.HasPrefix(path, "/apis/"+at.customGroup()+"/") {
				t.Errorf("dataset %s is read at %s", d.Name, path)
			}
		}
		for i := range d.namespaces {
			if ns := d.namespace(i); ns != "mine" {
				t.Errorf("object %d of dataset %s goes into namespace %s", i, d.Name, ns)
			}
		}
	}
	for _, sc := range writingScenarios {
		if ns := at.namespace(sc.name()); ns != "mine" {
			t.Errorf("%s writes into namespace %s", sc.name(), ns)
		}
		// The datasets are in the same namespace, and stay.
		if path := at.extras(sc, "pods"); !strings.HasPrefix(path, "/api/v1/namespaces/mine/pods?labelSelector=") {
			t.Errorf("%s removes %s", sc.name(), path)
		}
	}
	if problems := validation.IsDNS1123Subdomain(customPlural + "." + at.customGroup()); len(problems) > 0 {
		t.Errorf("custom resource definition: %v", problems)
	}
	// A Pod with a node or an owner that does not exist would be collected; with the usual scheduler it would be run.
	pod := at.pod(7)
	if pod.Spec.NodeName != "" || len(pod.OwnerReferences) > 0 || pod.Spec.SchedulerName == "" || pod.Spec.SchedulerName == "default-scheduler" {
		t.Errorf("Pod: node %q, owners %v, scheduler %q", pod.Spec.NodeName, pod.OwnerReferences, pod.Spec.SchedulerName)
	}
}

// What is asked for is what scenarios do, and no more.
func TestNeedsFollowScenarios(t *testing.T) {
	asked := func(scenarios []scenario, extra ...string) (all []string) {
		for _, n := range needs(scenarios, extra, place{only: "mine", run: "0a1b2c3d"}) {
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
		{"secrets", asked([]scenario{&readScenario{Dataset: "a"}}), []string{"create secrets", "list secrets", "watch secrets", "deletecollection secrets"}},
		{"fanout", asked([]scenario{&fanoutScenario{}}), []string{
			"create configmaps", "list configmaps", "watch configmaps", "deletecollection configmaps", "update configmaps"}},
		{"extra data", asked([]scenario{&fanoutScenario{}}, "a"), []string{
			"create secrets", "list secrets", "watch secrets", "deletecollection secrets",
			"create configmaps", "list configmaps", "watch configmaps", "deletecollection configmaps", "update configmaps"}},
		{"pods", asked([]scenario{&watchersScenario{}}), []string{
			"update pods/status", "create serviceaccounts", "deletecollection serviceaccounts",
			"create pods", "list pods", "watch pods", "deletecollection pods"}},
	} {
		if want := append(slices.Clone(base), test.want...); !slices.Equal(test.got, want) {
			t.Errorf("%s: needs %q\nwant %q", test.name, test.got, want)
		}
	}
}
