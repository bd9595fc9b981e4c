// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"fmt"
	"net/url"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

const (
	// ownerLabel marks what bench made outside of its namespaces, and these; it writes into no others.
	ownerLabel = "bench.weir-project.github.io/owner"
	ownerValue = "weir-bench"
	// runLabel tells the runs apart that share a cluster.
	runLabel = "bench.weir-project.github.io/run"
	// scenarioLabel marks what a scenario makes beside the datasets; its value is the scenario's name.
	scenarioLabel = "bench.weir-project.github.io/scenario"

	namespacePrefix = "weir-bench-"
)

// place is where bench puts its objects. The zero place is a cluster that is bench's alone: many namespaces, and
// collections are read across all of them. On a shared cluster everything is in one namespace, made for the run, and
// collections are read in that namespace only.
type place struct {
	only string // that one namespace; empty on a cluster of bench's own
	run  string // identifies the run; empty likewise
}

// namespace is where objects for a purpose go.
func (p place) namespace(purpose string) string {
	if p.only != "" {
		return p.only
	}
	return namespacePrefix + purpose
}

// collection is the path of a collection as it is read.
func (p place) collection(apiPath, resource string) string {
	if p.only != "" {
		return apiPath + "/namespaces/" + p.only + "/" + resource
	}
	return apiPath + "/" + resource
}

// customGroup is the API group of the custom resources. Definitions belong to no namespace, so each run on a shared
// cluster has a group of its own.
func (p place) customGroup() string {
	if p.run != "" {
		return "run-" + p.run + "." + customGroup
	}
	return customGroup
}

// pod is Pod i. On a shared cluster it must look like nobody's: with a node or an owner that does not exist, the
// cluster's controllers would collect it, and with the usual scheduler, it would be given a node.
func (p place) pod(i int) *corev1.Pod {
	pod := newPod(i)
	if p.only != "" {
		pod.OwnerReferences = nil
		pod.Spec.NodeName = ""
		pod.Spec.SchedulerName = "weir-bench-none"
	}
	return pod
}

// prepare makes a namespace, and what Pods in it refer to.
func (p place) prepare(ctx context.Context, client kubernetes.Interface, namespace string) (*corev1.Namespace, error) {
	if p.only == "" {
		return ownNamespace(ctx, client, namespace)
	}
	// Made when the run began; whoever has removed it since wants nothing written into a new one.
	ns, err := client.CoreV1().Namespaces().Get(ctx, namespace, metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("namespace %s: %w", namespace, err)
	}
	if ns.Labels[runLabel] != p.run {
		return nil, fmt.Errorf("namespace %s is not this run's any more (label %s): refusing to write into it", namespace, runLabel)
	}
	return ns, nil
}

// ownNamespace gives the namespace of that name, made by bench now or in an earlier run. A namespace that somebody else
// made is refused.
func ownNamespace(ctx context.Context, client kubernetes.Interface, name string) (*corev1.Namespace, error) {
	ns, err := client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{
		Name: name, Labels: map[string]string{ownerLabel: ownerValue},
	}}, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		ns, err = client.CoreV1().Namespaces().Get(ctx, name, metav1.GetOptions{})
	}
	if err != nil {
		return nil, fmt.Errorf("namespace %s: %w", name, err)
	}
	if ns.Labels[ownerLabel] != ownerValue {
		return nil, fmt.Errorf("namespace %s was not made by weir bench (it lacks the label %s=%s): refusing to write into it", name, ownerLabel, ownerValue)
	}
	return ns, nil
}

// writingScenarios are all scenarios that make objects beside the datasets.
var writingScenarios = []writingScenario{&watchersScenario{}, &fanoutScenario{}, &writesScenario{}}

// extras is the collection of what a scenario makes of a resource beside the datasets, in a namespace that is the
// scenario's alone. On a shared cluster the datasets are in there too, and the label tells them apart.
func (p place) extras(sc scenario, resource string) string {
	path := "/api/v1/namespaces/" + p.namespace(sc.name()) + "/" + resource
	if p.only != "" {
		path += "?labelSelector=" + url.QueryEscape(scenarioLabel+"="+sc.name())
	}
	return path
}

// removeExtras deletes what a scenario made beside the datasets, in this run or in an earlier one that was killed: whoever
// reads a dataset across all namespaces would find it there.
func (p place) removeExtras(ctx context.Context, client kubernetes.Interface, sc writingScenario) error {
	for _, resource := range sc.writes() {
		path := p.extras(sc, resource)
		if err := deleteAll(ctx, client, path); err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("delete %s: %w", path, err)
		}
	}
	return nil
}

// deleteAll deletes a collection without giving anything in it time to end.
func deleteAll(ctx context.Context, client kubernetes.Interface, path string) error {
	now := []byte(`{"kind":"DeleteOptions","apiVersion":"v1","gracePeriodSeconds":0}`)
	return restClient(client).Delete().RequestURI(path).SetHeader("Content-Type", jsonType).SetHeader("Accept", jsonType).Body(now).Do(ctx).Error()
}
