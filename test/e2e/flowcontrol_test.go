// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	authnv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// TestFlowControl reads how many seats a list of 4 MB takes: one if it streams, and as many
// as it is large, beyond the ten of upstream, if each request decodes it.
func TestFlowControl(t *testing.T) {
	for name, c := range map[string]struct {
		config      *rest.Config
		least, most float64
	}{
		"streamed": {server.Client, 1, 1},
		"decoded":  {startChild(t, "--feature-gates=StreamingList=false"), 11, 100},
	} {
		t.Run(name, func(t *testing.T) {
			admin := clientFor(t, c.config, runtime.ContentTypeJSON, nil)
			ns := namespace(t, admin)
			for i := range 40 {
				if _, err := admin.CoreV1().ConfigMaps(ns).Create(t.Context(), configMap(ns, fmt.Sprint("c", i), strings.Repeat("x", 100_000)), metav1.CreateOptions{}); err != nil {
					t.Fatal(err)
				}
			}
			user := serviceAccount(t, admin, c.config, ns)
			list := func(opts metav1.ListOptions) func() error {
				return func() error {
					_, err := user.CoreV1().ConfigMaps(ns).List(t.Context(), opts)
					return err
				}
			}
			if got := seats(t, admin, list(metav1.ListOptions{})); got < c.least || got > c.most {
				t.Errorf("a list took %v seats, want %v to %v", got, c.least, c.most)
			}
			if got := seats(t, admin, list(metav1.ListOptions{Limit: 1})); got > 2 {
				t.Errorf("a list of one object took %v seats", got)
			}
			// What the cache cannot answer is charged as upstream does.
			if got := seats(t, admin, list(metav1.ListOptions{ResourceVersion: "1", ResourceVersionMatch: metav1.ResourceVersionMatchExact})); got < 1 {
				t.Errorf("a list that goes to etcd took %v seats", got)
			}
		})
	}
}

// serviceAccount returns a client that flow control does not exempt, as it does
// administrators, and that may list ConfigMaps.
func serviceAccount(t *testing.T, admin *kubernetes.Clientset, config *rest.Config, ns string) *kubernetes.Clientset {
	t.Helper()
	ctx := t.Context()
	_, err := admin.CoreV1().ServiceAccounts(ns).Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "reader"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = admin.RbacV1().Roles(ns).Create(ctx, &rbacv1.Role{
		ObjectMeta: metav1.ObjectMeta{Name: "reader"},
		Rules:      []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"configmaps"}, Verbs: []string{"list"}}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = admin.RbacV1().RoleBindings(ns).Create(ctx, &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "reader"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "reader"},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: ns, Name: "reader"}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	token, err := admin.CoreV1().ServiceAccounts(ns).CreateToken(ctx, "reader", &authnv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	config = rest.AnonymousClientConfig(config)
	config.BearerToken = token.Status.Token
	user := clientFor(t, config, runtime.ContentTypeProtobuf, nil)
	eventually(t, func() (bool, string) { // the binding has to reach the authorizer
		_, err := user.CoreV1().ConfigMaps(ns).List(ctx, metav1.ListOptions{Limit: 1})
		return err == nil, fmt.Sprint(err)
	})
	return user
}

// seats returns how many seats flow control estimated for the one request of a service
// account that do makes.
func seats(t *testing.T, admin *kubernetes.Clientset, do func() error) float64 {
	t.Helper()
	read := func() (count uint64, sum float64) {
		body, err := admin.CoreV1().RESTClient().Get().AbsPath("/metrics").DoRaw(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		parser := expfmt.NewTextParser(model.LegacyValidation)
		families, err := parser.TextToMetricFamilies(bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range families["apiserver_flowcontrol_work_estimated_seats"].GetMetric() {
			for _, l := range m.GetLabel() {
				if l.GetName() == "flow_schema" && l.GetValue() == "service-accounts" {
					count, sum = count+m.GetHistogram().GetSampleCount(), sum+m.GetHistogram().GetSampleSum()
				}
			}
		}
		return count, sum
	}
	count, sum := read()
	_ = do() // whether there is an answer does not matter
	after, total := read()
	if after != count+1 {
		t.Fatalf("%d requests were estimated, want one", after-count)
	}
	return total - sum
}
