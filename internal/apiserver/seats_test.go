// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"sync"
	"testing"

	coordinationv1 "k8s.io/api/coordination/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/weir-project/weir/internal/budget"
	"github.com/weir-project/weir/test/wait"
)

// TestWatchesThatWaitHoldNoSeats: what is essential to the budget gets past flow control while watches of the same user wait
// for memory.
func TestWatchesThatWaitHoldNoSeats(t *testing.T) {
	const watches = 60 // more than there are seats
	server, admin := startServer(t, "--data-dir="+t.TempDir(), "--memory-limit=1Ti", "--max-requests-inflight=20", "--max-mutating-requests-inflight=10")
	defer func() {
		if err := server.Stop(); err != nil {
			t.Error(err)
		}
	}()
	if _, err := admin.RbacV1().ClusterRoleBindings().Create(t.Context(), &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "u"}, RoleRef: rbacv1.RoleRef{Kind: "ClusterRole", Name: "cluster-admin"},
		Subjects: []rbacv1.Subject{{Kind: "User", Name: "u"}},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	config := rest.CopyConfig(server.Client)
	config.Impersonate.UserName = "u"
	config.QPS = -1
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	var lease *coordinationv1.Lease
	wait.Until(t, "the user to be let in", patience, func() bool {
		lease, err = client.CoordinationV1().Leases("default").Create(t.Context(), &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: "l"}}, metav1.CreateOptions{})
		return err == nil
	})
	full(t)
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	for range watches {
		all.Go(func() {
			if w, err := client.CoreV1().ConfigMaps("default").Watch(ctx, metav1.ListOptions{}); err == nil {
				w.Stop()
			}
		})
	}
	wait.Until(t, "all watches to wait", patience, func() bool { return budget.Process.Usage().Waiting == watches })
	err = client.CoordinationV1().RESTClient().Put().Namespace("default").Resource("leases").Name("l").Param("timeout", "8s").MaxRetries(0).Body(lease).Do(ctx).Error()
	if err != nil {
		t.Errorf("a lease cannot be renewed while watches wait for memory: %v", err)
	}
	cancel()
	all.Wait()
}
