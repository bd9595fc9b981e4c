// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"

	"github.com/weir-project/weir/internal/bench/client"
	"github.com/weir-project/weir/internal/bench/dataset"
	"github.com/weir-project/weir/internal/bench/report"
	"github.com/weir-project/weir/internal/bench/scenario"
	"github.com/weir-project/weir/internal/rig"
)

// cluster is bench's stay on a cluster that it did not start: one namespace, made for this run and removed in the end with
// all that is in it. The only other thing that a run may leave marks in is a custom resource definition of its own.
type cluster struct {
	access rig.Access
	server *scenario.Server
	place  dataset.Place
	say    func(format string, args ...any)

	created bool // the namespace, and so everything else, may exist
}

// connectCluster reaches the cluster, checks that the user may do what the scenarios need, and makes the namespace. Nothing
// is left behind when it fails.
func connectCluster(ctx context.Context, o *Options, scenarios []scenario.Scenario, say func(string, ...any)) (*cluster, error) {
	id := make([]byte, 4)
	if _, err := rand.Read(id); err != nil {
		return nil, err
	}
	c := &cluster{
		access: rig.Access{Kubeconfig: o.Kubeconfig, Context: o.Context},
		place:  dataset.Place{Run: hex.EncodeToString(id), Only: o.Namespace},
		say:    say,
	}
	if c.place.Only == "" {
		c.place.Only = dataset.NamespacePrefix + "run-" + c.place.Run
	}
	var err error
	if c.server, err = scenario.NewServer(report.Target{Name: clusterTarget}, nil, c.access); err != nil {
		return nil, err
	}
	if _, err := c.server.Get(ctx, "/version"); err != nil {
		return nil, fmt.Errorf("reach the cluster of kubeconfig %s: %w", o.Kubeconfig, err)
	}
	if err := c.mayDo(ctx, needs(scenarios, o.ExtraData, c.place)); err != nil {
		return nil, err
	}
	// Not to be interrupted half way: whether the namespace is there has to be known.
	create, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
	defer cancel()
	_, err = c.client().CoreV1().Namespaces().Create(create, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{
		Name: c.place.Only, Labels: map[string]string{dataset.OwnerLabel: dataset.OwnerValue, dataset.RunLabel: c.place.Run},
	}}, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return nil, fmt.Errorf("namespace %s exists already, so it is not this run's: refusing to write into it; give the name of one that does not exist, or none", c.place.Only)
	}
	if err != nil {
		return nil, fmt.Errorf("create namespace %s with kubeconfig %s: %w", c.place.Only, o.Kubeconfig, err)
	}
	c.created = true
	say("namespace %s on %s; it is removed in the end", c.place.Only, c.server.Base)
	return c, nil
}

func (c *cluster) client() kubernetes.Interface { return c.server.Client }

// need is one thing that a run must be allowed to do.
type need struct {
	group, resource string
	verbs           []string
	namespaced      bool
	path            string // in place of a resource
}

// needs says what scenarios do to a cluster.
func needs(scenarios []scenario.Scenario, extraData []string, at dataset.Place) []need {
	list := []need{
		{resource: "namespaces", verbs: []string{"create", "get", "delete"}},
		{path: "/metrics", verbs: []string{"get"}},
	}
	resources := map[string]bool{}
	data := slices.Clone(extraData)
	for _, sc := range scenarios {
		about := sc.About()
		data = append(data, about.Datasets...)
		for _, r := range about.Writes {
			resources[r] = true
		}
	}
	for _, name := range data {
		switch name {
		case "a":
			resources["secrets"] = true
		case "b":
			resources["pods"] = true
		case "c":
			resources["configmaps"] = true
		case "d":
			list = append(list,
				need{group: "apiextensions.k8s.io", resource: "customresourcedefinitions", verbs: []string{"create", "get", "delete"}},
				need{group: at.CustomGroup(), resource: dataset.CustomPlural, verbs: objectVerbs, namespaced: true})
		}
	}
	if resources["pods"] {
		list = append(list,
			need{resource: "pods/status", verbs: []string{"update"}, namespaced: true},
			need{resource: "serviceaccounts", verbs: []string{"create", "deletecollection"}, namespaced: true})
	}
	for _, r := range []string{"secrets", "pods", "configmaps"} {
		if resources[r] {
			list = append(list, need{resource: r, verbs: objectVerbs, namespaced: true})
		}
	}
	if resources["configmaps"] {
		list = append(list, need{resource: "configmaps", verbs: []string{"update"}, namespaced: true})
	}
	return list
}

var objectVerbs = []string{"create", "list", "watch", "deletecollection"}

// mayDo asks the server, before anything is written, whether the user may do all that will be needed, and gives one error
// that names everything that is not allowed.
func (c *cluster) mayDo(ctx context.Context, list []need) error {
	var denied []string
	reviews := c.client().AuthorizationV1().SelfSubjectAccessReviews()
	for _, n := range list {
		for _, verb := range n.verbs {
			review := &authorizationv1.SelfSubjectAccessReview{}
			what := verb + " " + n.resource
			if n.path != "" {
				review.Spec.NonResourceAttributes = &authorizationv1.NonResourceAttributes{Path: n.path, Verb: verb}
				what = verb + " " + n.path
			} else {
				resource, sub, _ := strings.Cut(n.resource, "/")
				attributes := &authorizationv1.ResourceAttributes{Group: n.group, Resource: resource, Subresource: sub, Verb: verb}
				if n.namespaced {
					attributes.Namespace = c.place.Only
				}
				review.Spec.ResourceAttributes = attributes
			}
			answer, err := reviews.Create(ctx, review, metav1.CreateOptions{})
			if err != nil {
				return fmt.Errorf("kubeconfig %s: ask what it may do: %w", c.access.Kubeconfig, err)
			}
			if !answer.Status.Allowed {
				denied = append(denied, what)
			}
		}
	}
	if len(denied) == 0 {
		return nil
	}
	return fmt.Errorf("kubeconfig %s: %s may not %s, which this scenario needs; nothing was created", c.access.Kubeconfig, c.user(ctx), strings.Join(denied, ", "))
}

// user is who the server takes the kubeconfig's user for.
func (c *cluster) user(ctx context.Context) string {
	self, err := c.client().AuthenticationV1().SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	if err != nil {
		return "its user"
	}
	return "user " + self.Status.UserInfo.Username
}

// cleanUp removes everything that the run made: also when the user interrupts. It says what it could not remove.
func (c *cluster) cleanUp(ctx context.Context) error {
	if !c.created {
		return nil
	}
	const limit = 5 * time.Minute
	ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), limit, fmt.Errorf("not done after %v", limit))
	defer cancel()
	c.say("removing namespace %s", c.place.Only)
	err := errors.Join(c.removeNamespace(ctx), c.removeDefinition(ctx))
	if err != nil {
		return fmt.Errorf("clean up on %s (find what is left by the label %s=%s): %w", c.server.Base, dataset.RunLabel, c.place.Run, err)
	}
	c.created = false
	return nil
}

// removeNamespace deletes the namespace and what bench put into it. A cluster's namespace controller would do the latter
// alone; a bare API server has none, and there bench takes its part.
func (c *cluster) removeNamespace(ctx context.Context) error {
	name := c.place.Only
	namespaces := c.client().CoreV1().Namespaces()
	ns, err := namespaces.Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("namespace %s: %w", name, err)
	}
	if ns.Labels[dataset.RunLabel] != c.place.Run {
		return nil // somebody has replaced it: not ours
	}
	// Every namespace gets this one at once where the controllers run.
	_, err = c.client().CoreV1().ServiceAccounts(name).Get(ctx, "default", metav1.GetOptions{})
	bare := apierrors.IsNotFound(err)
	// First, so that nothing more can be created in it.
	err = namespaces.Delete(ctx, name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &ns.UID}})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete namespace %s: %w", name, err)
	}
	if bare {
		if err := c.emptyNamespace(ctx); err != nil {
			return err
		}
		terminating, err := namespaces.Get(ctx, name, metav1.GetOptions{})
		if err == nil && terminating.UID == ns.UID {
			terminating.Spec.Finalizers = nil
			_, err = namespaces.Finalize(ctx, terminating, metav1.UpdateOptions{})
		}
		if err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("finalize namespace %s, which no controller does here: %w", name, err)
		}
	}
	return c.waitGone(ctx, "namespace "+name, func() error {
		now, err := namespaces.Get(ctx, name, metav1.GetOptions{})
		if err == nil && now.UID != ns.UID {
			return apierrors.NewNotFound(corev1.Resource("namespaces"), name)
		}
		return err
	})
}

// emptyNamespace deletes all that bench may have put into the namespace.
func (c *cluster) emptyNamespace(ctx context.Context) error {
	paths := []string{"/api/v1", "/api/v1", "/api/v1", "/api/v1", "/apis/" + c.place.CustomGroup() + "/" + dataset.CustomVersion}
	for i, resource := range []string{"secrets", "pods", "configmaps", "serviceaccounts", dataset.CustomPlural} {
		path := c.place.Collection(paths[i], resource)
		err := dataset.DeleteAll(ctx, c.client(), path)
		// Not found: the definition was never made. Forbidden: the user was not asked to be allowed what the scenario
		// did not need, so nothing is there.
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsForbidden(err) {
			return fmt.Errorf("delete %s: %w", path, err)
		}
	}
	return nil
}

// removeDefinition deletes the run's custom resource definition; the server deletes the resources.
func (c *cluster) removeDefinition(ctx context.Context) error {
	path := "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/" + dataset.CustomPlural + "." + c.place.CustomGroup()
	err := dataset.RESTClient(c.client()).Delete().RequestURI(path).SetHeader("Accept", runtime.ContentTypeJSON).Do(ctx).Error()
	if apierrors.IsNotFound(err) || apierrors.IsForbidden(err) { // forbidden: as above
		return nil
	}
	if err != nil {
		return fmt.Errorf("delete %s: %w", path, err)
	}
	return c.waitGone(ctx, path, func() error {
		return dataset.RESTClient(c.client()).Get().RequestURI(path).SetHeader("Accept", runtime.ContentTypeJSON).Do(ctx).Error()
	})
}

// waitGone waits until get says "not found".
func (c *cluster) waitGone(ctx context.Context, what string, get func() error) error {
	var last error
	for {
		err := get()
		if apierrors.IsNotFound(err) {
			return nil
		}
		if ctx.Err() == nil {
			last = err
		}
		if err := client.Pause(ctx, 500*time.Millisecond); err != nil {
			return fmt.Errorf("%s is still being deleted: %w", what, errors.Join(err, last))
		}
	}
}
