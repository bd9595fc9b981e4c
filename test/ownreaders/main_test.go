// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

// Package ownreaders shows that those in the server who read from it (authenticators, authorizers, admission plugins, policies) do with
// weir's informers what they do with upstream's: each test puts the same requests to stock and to weir, over one etcd.
package ownreaders

import (
	"context"
	"fmt"
	"regexp"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/weir-project/weir/test/etcd"
	"github.com/weir-project/weir/test/servers"
)

func TestMain(m *testing.M) { servers.Main(m) }

// world is a stock server and a weir over one etcd, and a namespace.
type world struct {
	*testing.T
	ctx       context.Context
	servers   []*servers.Server
	namespace string
}

// start starts both, once for all tests: a start takes long.
func start(t *testing.T) []*servers.Server {
	t.Helper()
	endpoint := etcd.Run(t).Endpoints()[0]
	var both []*servers.Server
	room := servers.Room(t) // with one key for service accounts
	for _, name := range []string{servers.Stock, servers.Weir} {
		program := servers.Program(name, "--enable-bootstrap-token-auth")
		program.Etcd = []string{endpoint}
		both = append(both, servers.StartIn(t, room, program))
	}
	for _, s := range both {
		s.Wait()
	}
	return both
}

// holdsFrames finds that weir's informers hold something.
var holdsFrames = regexp.MustCompile(`(?m)^weir_memory_bytes\{purpose="informers"\} [1-9]`)

// TestOwnReaders is the one that starts servers.
func TestOwnReaders(t *testing.T) {
	both := start(t)
	for name, test := range map[string]func(*world){
		"node-authorizer": nodeAuthorizer, "node-restriction": nodeRestriction, "pod-security": podSecurity,
		"bound-tokens": boundTokens, "legacy-tokens": legacyTokens, "bootstrap-tokens": bootstrapTokens,
		"policy-parameters": policyParameters, "mutating-policy": mutatingPolicy, "quota": quota,
	} {
		t.Run(name, func(t *testing.T) {
			w := &world{T: t, ctx: t.Context(), servers: both, namespace: name}
			w.must(w.admin(0).CoreV1().Namespaces().Create(w.ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}))
			for i := range both {
				// Admission of either knows the namespace.
				w.eventually(i, "the namespace", func(c kubernetes.Interface) error {
					_, err := c.CoreV1().ServiceAccounts(name).Create(w.ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{GenerateName: "probe-"}}, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
					return err
				})
			}
			test(w)
		})
	}
	if status, metrics := both[1].Do("GET", "/metrics", nil); status != 200 || !holdsFrames.Match(metrics) {
		t.Errorf("weir's informers hold no frames of what is left: %d", status)
	}
}

// config is that of an administrator's client of a server.
func (w *world) config(server int) *rest.Config {
	return &rest.Config{
		Host: w.servers[server].URL, BearerToken: servers.Token, QPS: 1000, Burst: 1000, WarningHandler: rest.NoWarnings{},
		TLSClientConfig: rest.TLSClientConfig{Insecure: true}, // the certificate is the test's own, on loopback
	}
}

func (w *world) client(cfg *rest.Config) kubernetes.Interface {
	w.Helper()
	c, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		w.Fatal(err)
	}
	return c
}

// admin is an administrator at a server.
func (w *world) admin(server int) kubernetes.Interface { return w.client(w.config(server)) }

// as is a user at a server.
func (w *world) as(server int, user string, groups ...string) kubernetes.Interface {
	cfg := w.config(server)
	cfg.Impersonate = rest.ImpersonationConfig{UserName: user, Groups: groups}
	return w.client(cfg)
}

// node is a kubelet at a server.
func (w *world) node(server int, name string) kubernetes.Interface {
	return w.as(server, "system:node:"+name, "system:nodes", "system:authenticated")
}

// bearing is who has a token, at a server.
func (w *world) bearing(server int, token string) kubernetes.Interface {
	cfg := w.config(server)
	cfg.BearerToken = token
	return w.client(cfg)
}

// must ends the test if a request has failed.
func (w *world) must(_ any, err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// eventually waits until a server answers without an error.
func (w *world) eventually(server int, what string, ask func(kubernetes.Interface) error) {
	w.Helper()
	c := w.admin(server)
	var last error
	defer func() {
		if w.Failed() {
			w.Logf("%s: %s: %v", w.servers[server].Name, what, last)
		}
	}()
	servers.Eventually(w, w.servers[server].Name+": "+what, func() bool { last = ask(c); return last == nil })
}

// refused is nil if an error is one of authentication or authorization.
func refused(err error) error {
	if apierrors.IsForbidden(err) || apierrors.IsUnauthorized(err) {
		return nil
	}
	return fmt.Errorf("not refused: %w", orNil(err))
}

func orNil(err error) error {
	if err == nil {
		return fmt.Errorf("no error")
	}
	return err
}

// pod is a Pod of the simplest kind on a node.
func (w *world) pod(name, node string, change ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: w.namespace},
		Spec:       corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{Name: "c", Image: "image"}}},
	}
	for _, c := range change {
		c(p)
	}
	return p
}

// make creates a Pod, as an administrator of the first server.
func (w *world) make(p *corev1.Pod) *corev1.Pod {
	w.Helper()
	made, err := w.admin(0).CoreV1().Pods(w.namespace).Create(w.ctx, p, metav1.CreateOptions{})
	w.must(made, err)
	return made
}

// now deletes at once.
var now = metav1.DeleteOptions{GracePeriodSeconds: new(int64)}
