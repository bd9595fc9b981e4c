// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package dataset

import (
	"reflect"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/util/validation"
)

// On a shared cluster nothing is read or written outside of the run's namespace and API group.
func TestSharedPlaceIsOneNamespace(t *testing.T) {
	at := Place{Only: "mine", Run: "0a1b2c3d"}
	for _, d := range []Set{Secrets(at, 9, 9), Pods(at, 9, 0), ConfigMaps(at, 9, 9), CustomResources(at, 9)} {
		for _, path := range d.Resources {
			if !strings.Contains(path, "/namespaces/mine/") {
				t.Errorf("dataset %s is read at %s", d.Name, path)
			}
			if strings.HasPrefix(path, "/apis/") && !strings.HasPrefix(path, "/apis/"+at.CustomGroup()+"/") {
				t.Errorf("dataset %s is read at %s", d.Name, path)
			}
		}
		for i := range d.namespaces {
			if ns := d.namespace(i); ns != "mine" {
				t.Errorf("object %d of dataset %s goes into namespace %s", i, d.Name, ns)
			}
		}
	}
	for _, scenario := range []string{"watchers", "fanout", "writes"} {
		if ns := at.Namespace(scenario); ns != "mine" {
			t.Errorf("%s writes into namespace %s", scenario, ns)
		}
		// The datasets are in the same namespace, and stay.
		if path := at.Extras(scenario, "pods"); !strings.HasPrefix(path, "/api/v1/namespaces/mine/pods?labelSelector=") {
			t.Errorf("%s removes %s", scenario, path)
		}
	}
	if problems := validation.IsDNS1123Subdomain(CustomPlural + "." + at.CustomGroup()); len(problems) > 0 {
		t.Errorf("custom resource definition: %v", problems)
	}
	// A Pod with a node or an owner that does not exist would be collected; with the usual scheduler it would be run.
	pod := at.Pod(7)
	if pod.Spec.NodeName != "" || len(pod.OwnerReferences) > 0 || pod.Spec.SchedulerName == "" || pod.Spec.SchedulerName == "default-scheduler" {
		t.Errorf("Pod: node %q, owners %v, scheduler %q", pod.Spec.NodeName, pod.OwnerReferences, pod.Spec.SchedulerName)
	}
}

// A Pod gets the size that is asked for, as far as settings and what the server notes of them make it up; nothing else changes.
func TestPodsAreMadeLarger(t *testing.T) {
	for _, size := range []int{0, podBytes, podBytes + 100, 10_240, 30_000} {
		plain, padded := newPod(7), newPod(7)
		pad(padded, size)
		grown := padded.Size() - plain.Size()
		for _, v := range padded.Spec.Containers[0].Env[len(plain.Spec.Containers[0].Env):] {
			grown += len(`"k:{\"name\":\"\"}":{".":{},"f:name":{},"f:value":{}},`) + len(v.Name)
		}
		if off := podBytes + grown - max(size, podBytes); off < -160 || off > 160 {
			t.Errorf("a Pod of %d bytes has about %d", size, podBytes+grown)
		}
		padded.Spec.Containers[0].Env = plain.Spec.Containers[0].Env
		if !reflect.DeepEqual(plain, padded) {
			t.Errorf("a Pod of %d bytes differs in more than its settings", size)
		}
	}
}
