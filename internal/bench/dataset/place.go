// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package dataset

import (
	"context"
	"fmt"
	"net/url"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
)

const (
	// OwnerLabel marks what bench made outside of its namespaces, and these; it writes into no others.
	OwnerLabel = "bench.weir-project.github.io/owner"
	// OwnerValue is its value.
	OwnerValue = "weir-bench"
	// RunLabel tells the runs apart that share a cluster.
	RunLabel = "bench.weir-project.github.io/run"
	// ScenarioLabel marks what a scenario makes beside the datasets; its value is the scenario's name.
	ScenarioLabel = "bench.weir-project.github.io/scenario"

	// NamespacePrefix begins the names of bench's namespaces.
	NamespacePrefix = "weir-bench-"
)

// Place is where bench puts its objects. The zero Place is a cluster that is bench's alone: many namespaces, and
// collections are read across all of them. On a shared cluster everything is in one namespace, made for the run, and
// collections are read in that namespace only.
type Place struct {
	Only string // that one namespace; empty on a cluster of bench's own
	Run  string // identifies the run; empty likewise
}

// Namespace is where objects for a purpose go.
func (p Place) Namespace(purpose string) string {
	if p.Only != "" {
		return p.Only
	}
	return NamespacePrefix + purpose
}

// Collection is the path of a collection as it is read.
func (p Place) Collection(apiPath, resource string) string {
	if p.Only != "" {
		return apiPath + "/namespaces/" + p.Only + "/" + resource
	}
	return apiPath + "/" + resource
}

// CustomGroup is the API group of the custom resources. Definitions belong to no namespace, so each run on a shared
// cluster has a group of its own.
func (p Place) CustomGroup() string {
	if p.Run != "" {
		return "run-" + p.Run + "." + customGroup
	}
	return customGroup
}

// Pod is Pod i. On a shared cluster it must look like nobody's: with a node or an owner that does not exist, the
// cluster's controllers would collect it, and with the usual scheduler, it would be given a node.
func (p Place) Pod(i int) *corev1.Pod {
	pod := newPod(i)
	if p.Only != "" {
		pod.OwnerReferences = nil
		pod.Spec.NodeName = ""
		pod.Spec.SchedulerName = "weir-bench-none"
	}
	return pod
}

// Prepare makes a namespace, and what Pods in it refer to.
func (p Place) Prepare(ctx context.Context, client kubernetes.Interface, namespace string) (*corev1.Namespace, error) {
	if p.Only == "" {
		return ownNamespace(ctx, client, namespace)
	}
	// Made when the run began; whoever has removed it since wants nothing written into a new one.
	ns, err := client.CoreV1().Namespaces().Get(ctx, namespace, metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("namespace %s: %w", namespace, err)
	}
	if ns.Labels[RunLabel] != p.Run {
		return nil, fmt.Errorf("namespace %s is not this run's any more (label %s): refusing to write into it", namespace, RunLabel)
	}
	return ns, nil
}

// ownNamespace gives the namespace of that name, made by bench now or in an earlier run. A namespace that somebody else
// made is refused.
func ownNamespace(ctx context.Context, client kubernetes.Interface, name string) (*corev1.Namespace, error) {
	ns, err := client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{
		Name: name, Labels: map[string]string{OwnerLabel: OwnerValue},
	}}, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		ns, err = client.CoreV1().Namespaces().Get(ctx, name, metav1.GetOptions{})
	}
	if err != nil {
		return nil, fmt.Errorf("namespace %s: %w", name, err)
	}
	if ns.Labels[OwnerLabel] != OwnerValue {
		return nil, fmt.Errorf("namespace %s was not made by weir bench (it lacks the label %s=%s): refusing to write into it", name, OwnerLabel, OwnerValue)
	}
	return ns, nil
}

// Extras is the collection of what a scenario makes of a resource beside the datasets, in a namespace that is the
// scenario's alone. On a shared cluster the datasets are in there too, and the label tells them apart.
func (p Place) Extras(scenario, resource string) string {
	path := "/api/v1/namespaces/" + p.Namespace(scenario) + "/" + resource
	if p.Only != "" {
		path += "?labelSelector=" + url.QueryEscape(ScenarioLabel+"="+scenario)
	}
	return path
}

// RemoveExtras deletes what a scenario made beside the datasets, in this run or in an earlier one that was killed: whoever
// reads a dataset across all namespaces would find it there.
func (p Place) RemoveExtras(ctx context.Context, client kubernetes.Interface, scenario string, resources []string) error {
	for _, resource := range resources {
		path := p.Extras(scenario, resource)
		if err := DeleteAll(ctx, client, path); err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("delete %s: %w", path, err)
		}
	}
	return nil
}

// DeleteAll deletes a collection without giving anything in it time to end.
func DeleteAll(ctx context.Context, client kubernetes.Interface, path string) error {
	now := []byte(`{"kind":"DeleteOptions","apiVersion":"v1","gracePeriodSeconds":0}`)
	return RESTClient(client).Delete().RequestURI(path).SetHeader("Content-Type", runtime.ContentTypeJSON).SetHeader("Accept", runtime.ContentTypeJSON).Body(now).Do(ctx).Error()
}
