// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package killed

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	typed "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"github.com/weir-project/weir/internal/rig"
	"github.com/weir-project/weir/test/acked"
	"github.com/weir-project/weir/test/servers"
)

func TestMain(m *testing.M) { servers.Main(m) }

const (
	killsEnv = "WEIR_KILLS" // their number
	seedEnv  = "WEIR_SEED"

	writers = 8
	objects = 12 // of each writer
	markKey = "mark"
)

// writer has objects of its own. Its fields are its own while it writes.
type writer struct {
	id       int
	rand     *rand.Rand
	maps     typed.ConfigMapInterface
	ledger   acked.Ledger
	revision int64 // the latest that it was told of
	count    int
	acks     int
	unknown  int
	failure  error // an answer that makes no sense
}

// write writes until a write is not answered: that is the kill.
func (w *writer) write(ctx context.Context) {
	for w.failure == nil && w.once(ctx) {
	}
}

// once reports whether the write was answered.
func (w *writer) once(ctx context.Context) bool {
	w.count++
	name := fmt.Sprintf("object-%d-%d", w.id, w.rand.IntN(objects))
	mark := fmt.Sprintf("%d-%d", w.id, w.count)
	object := &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Data:       map[string]string{markKey: mark, "fill": strings.Repeat("x", 100+w.rand.IntN(20_000))},
	}
	exists := !w.ledger[name][acked.Absent] && w.ledger[name] != nil
	var made *corev1.ConfigMap
	var err error
	switch choice := w.rand.IntN(10); {
	case !exists:
		made, err = w.maps.Create(ctx, object, metav1.CreateOptions{})
	case choice < 2:
		mark = acked.Absent
		err = w.maps.Delete(ctx, name, metav1.DeleteOptions{})
	case choice < 6:
		made, err = w.maps.Update(ctx, object, metav1.UpdateOptions{})
	default:
		patch, failed := json.Marshal(map[string]any{"data": object.Data})
		if failed != nil {
			w.failure = failed
			return false
		}
		made, err = w.maps.Patch(ctx, name, types.MergePatchType, patch, metav1.PatchOptions{})
	}
	var status apierrors.APIStatus
	switch {
	case err == nil:
		w.acks++
		w.ledger.Acknowledged(name, mark)
		if made != nil {
			w.told(made)
		}
		return true
	case errors.As(err, &status) && status.Status().Code < 500:
		// Nobody else writes it, and the last write of it was answered: there is nothing to refuse.
		w.failure = fmt.Errorf("write %s of %s: %w", mark, name, err)
		return false
	default:
		w.unknown++
		w.ledger.Unanswered(name, mark)
		return false
	}
}

// told holds that revisions go up, also over a kill.
func (w *writer) told(made *corev1.ConfigMap) {
	rev, err := strconv.ParseInt(made.ResourceVersion, 10, 64)
	if err == nil && rev <= w.revision {
		err = fmt.Errorf("%s was made at revision %d, and revision %d was told before", made.Name, rev, w.revision)
	}
	w.revision = rev
	w.failure = errors.Join(w.failure, err)
}

func number[T any](t *testing.T, name string, otherwise T, parse func(string) (T, error)) T {
	t.Helper()
	given := os.Getenv(name)
	if given == "" {
		return otherwise
	}
	n, err := parse(given)
	if err != nil {
		t.Fatalf("%s=%s: %v", name, given, err)
	}
	return n
}

// A server that is killed at any time under writes has, when it is started again, all that it has acknowledged, and nothing
// that was overwritten or deleted.
func TestKilledUnderWrites(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a server several times")
	}
	kills := number(t, killsEnv, 3, strconv.Atoi)
	seed := number(t, seedEnv, rand.Uint64(), func(s string) (uint64, error) { return strconv.ParseUint(s, 10, 64) })
	t.Logf("%s=%d", seedEnv, seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	room := servers.Room(t)
	program := servers.Program(servers.Weir, "--data-dir="+filepath.Join(room.Dir(), "data"))
	server, err := room.StartServer(program)
	if err != nil {
		t.Fatal(err)
	}
	config := clientConfig(t, server)
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	if err := server.WaitReady(ctx); err != nil {
		t.Fatal(err)
	}
	maps := client.CoreV1().ConfigMaps(metav1.NamespaceDefault)
	informer, stopped := inform(ctx, t, client)

	list := make([]*writer, writers)
	for i := range list {
		list[i] = &writer{id: i, rand: rand.New(rand.NewPCG(seed, uint64(i)+1)), maps: maps, ledger: acked.Ledger{}}
	}
	early := 0
	for kill := range kills {
		var all sync.WaitGroup
		for _, w := range list {
			all.Go(func() { w.write(ctx) })
		}
		// A wait, not a condition: the kill is to come at any time.
		timer := time.NewTimer(time.Duration(50+rnd.IntN(1500)) * time.Millisecond)
		<-timer.C
		server.Kill()
		all.Wait()
		restart(t, server)
		if rnd.IntN(8) == 0 { // another one, before it is ready
			timer.Reset(time.Duration(rnd.IntN(4000)) * time.Millisecond)
			<-timer.C
			server.Kill()
			restart(t, server)
			early++
		}
		if err := server.WaitReady(ctx); err != nil {
			t.Fatal(err)
		}
		if err := compare(ctx, maps, list, rnd); err != nil {
			t.Fatalf("after kill %d: %v", kill+1, err)
		}
	}
	acks, unknown := 0, 0
	for _, w := range list {
		acks, unknown = acks+w.acks, unknown+w.unknown
	}
	t.Logf("%d kills under writes, %d more before it was ready; %d writes acknowledged, %d not answered", kills, early, acks, unknown)
	if unknown == 0 {
		t.Error("no write met a kill")
	}
	agree(ctx, t, maps, informer)
	cancel()
	<-stopped
}

func restart(t *testing.T, server *rig.Server) {
	t.Helper()
	server.HTTP.CloseIdleConnections()
	if err := server.Restart(); err != nil {
		t.Fatal(err)
	}
}

func clientConfig(t *testing.T, server *rig.Server) *rest.Config {
	t.Helper()
	config, err := server.RESTConfig("killed")
	if err != nil {
		t.Fatal(err)
	}
	config.QPS, config.Burst = -1, -1
	return config
}

// compare holds what is there against what can be: all by a list, and some objects by themselves, which etcd answers.
func compare(ctx context.Context, maps typed.ConfigMapInterface, list []*writer, rnd *rand.Rand) error {
	there, err := maps.List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("list what there is: %w", err)
	}
	marks := map[string]string{}
	for _, c := range there.Items {
		marks[c.Name] = c.Data[markKey]
	}
	var failures []error
	for _, w := range list {
		failures = append(failures, w.failure)
		for i := range objects {
			name := fmt.Sprintf("object-%d-%d", w.id, i)
			failures = append(failures, w.ledger.Sees(name, marks[name]))
			if rnd.IntN(10) > 0 {
				continue
			}
			mark := acked.Absent
			switch one, err := maps.Get(ctx, name, metav1.GetOptions{}); {
			case err == nil:
				mark = one.Data[markKey]
			case !apierrors.IsNotFound(err):
				failures = append(failures, err)
				continue
			}
			if err := w.ledger.Sees(name, mark); err != nil {
				failures = append(failures, fmt.Errorf("by itself: %w", err))
			}
		}
	}
	return errors.Join(failures...)
}

// inform starts an informer, which ends with ctx; the channel is closed then.
func inform(ctx context.Context, t *testing.T, client kubernetes.Interface) (cache.SharedIndexInformer, <-chan struct{}) {
	t.Helper()
	factory := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithNamespace(metav1.NamespaceDefault))
	informer := factory.Core().V1().ConfigMaps().Informer()
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		informer.Run(ctx.Done())
	}()
	servers.Eventually(t, "the informer to have synced", informer.HasSynced)
	return informer, stopped
}

// agree holds that the informer comes to what a list gives, now that nothing is written.
func agree(ctx context.Context, t *testing.T, maps typed.ConfigMapInterface, informer cache.SharedIndexInformer) {
	t.Helper()
	there, err := maps.List(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{}
	for _, c := range there.Items {
		want[c.Name] = c.ResourceVersion
	}
	servers.Eventually(t, "the informer to hold what the list gives", func() bool {
		have := informer.GetStore().List()
		if len(have) != len(want) {
			return false
		}
		for _, o := range have {
			if c := o.(*corev1.ConfigMap); want[c.Name] != c.ResourceVersion {
				return false
			}
		}
		return true
	})
}
