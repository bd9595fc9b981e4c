// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package dataset

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/url"
	"sync"
	"sync/atomic"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/weir-project/weir/internal/bench/view"
)

// loadedAnnotation is set on a dataset's first namespace once all of it is there; its value describes the dataset.
const loadedAnnotation = "bench.weir-project.github.io/loaded"

// Set is a set of objects to load once and to read by every target.
type Set struct {
	Name string `json:"name"`
	// Resources are the paths of the collection: one for each served version.
	Resources  []string `json:"resources"`
	Objects    int      `json:"objects"`
	ObjectSize int      `json:"objectSize,omitempty"` // bytes of payload, where it is a parameter
	namespaces int
	place      Place
	// Served is the number of objects in each collection as readers see it: on a shared cluster, controllers may have
	// put some of their own beside Objects.
	Served int64 `json:"-"`

	// prepare, when not nil, is called before the first create.
	prepare func(ctx context.Context, client kubernetes.Interface) error
	// create makes object i in a namespace.
	create func(ctx context.Context, client kubernetes.Interface, namespace string, i int) error
}

// Secrets is "a": few large objects, as in the test that the API Streaming work was argued with.
func Secrets(at Place, objects, size int) Set {
	return Set{
		Name: "a", Resources: []string{at.Collection("/api/v1", "secrets")}, Objects: objects, ObjectSize: size, namespaces: 1, place: at,
		create: func(ctx context.Context, client kubernetes.Interface, namespace string, i int) error {
			_, err := client.CoreV1().Secrets(namespace).Create(ctx, &corev1.Secret{
				ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("secret-%05d", i), Labels: map[string]string{"app": "weir-bench"}},
				Type:       corev1.SecretTypeOpaque,
				Data:       map[string][]byte{"payload": randomBytes(uint64(i), size)},
			}, metav1.CreateOptions{FieldManager: "weir-bench"})
			return err
		},
	}
}

// Pods is "b": many realistic Pods, over 60 namespaces and 1,000 nodes. With a size they have as many more settings as make
// them about so many bytes in protobuf.
func Pods(at Place, objects, size int) Set {
	return Set{
		Name: "b", Resources: []string{at.Collection("/api/v1", "pods")}, Objects: objects, ObjectSize: size, namespaces: 60, place: at,
		prepare: func(ctx context.Context, client kubernetes.Interface) error { return at.PreparePods(ctx, client) },
		create: func(ctx context.Context, client kubernetes.Interface, namespace string, i int) error {
			pod := at.Pod(i)
			pad(pod, size)
			return CreatePod(ctx, client, namespace, pod, i)
		},
	}
}

// ConfigMaps is "c": many objects of middling size. They are read in their one namespace: servers keep ConfigMaps of
// their own elsewhere.
func ConfigMaps(at Place, objects, size int) Set {
	return Set{
		Name: "c", Resources: []string{"/api/v1/namespaces/" + at.dataNamespace("c", 0) + "/configmaps"},
		Objects: objects, ObjectSize: size, namespaces: 1, place: at,
		create: func(ctx context.Context, client kubernetes.Interface, namespace string, i int) error {
			_, err := client.CoreV1().ConfigMaps(namespace).Create(ctx, NewConfigMap("config", i, 0, size), metav1.CreateOptions{FieldManager: "weir-bench"})
			return err
		},
	}
}

// spec describes the dataset's content, so that data loaded by an earlier run is reused only when it is the same.
func (d Set) spec() string {
	return fmt.Sprintf("v1 %s objects=%d size=%d namespaces=%d", d.Name, d.Objects, d.ObjectSize, d.namespaces)
}

func (d Set) namespace(i int) string { return d.place.dataNamespace(d.Name, i) }

func (p Place) dataNamespace(dataset string, i int) string {
	return p.Namespace(fmt.Sprintf("data-%s-%02d", dataset, i))
}

// Load creates the dataset unless an earlier run already did. It reports whether it wrote anything.
func (d Set) Load(ctx context.Context, client kubernetes.Interface, writers int, v *view.View) (bool, error) {
	for i := range d.namespaces {
		ns, err := d.place.Prepare(ctx, client, d.namespace(i))
		if err != nil {
			return false, err
		}
		if d.place.Only != "" {
			break // the same for all
		}
		if i > 0 {
			continue
		}
		switch loaded := ns.Annotations[loadedAnnotation]; loaded {
		case "":
		case d.spec():
			return false, nil
		default:
			return false, fmt.Errorf("dataset %s: the work directory holds %q, this run wants %q; use another work directory", d.Name, loaded, d.spec())
		}
	}
	v.Say("loading dataset %s: %d objects", d.Name, d.Objects)
	var created atomic.Int64
	defer v.Begin("loading dataset "+d.Name, nil).Finish()
	if d.prepare != nil {
		if err := d.prepare(ctx, client); err != nil {
			return true, fmt.Errorf("dataset %s: %w", d.Name, err)
		}
	}
	err := InParallel(ctx, writers, d.Objects, func(ctx context.Context, _, i int) error {
		err := d.create(ctx, client, d.namespace(i%d.namespaces), i)
		if apierrors.IsAlreadyExists(err) { // an interrupted run made it
			err = nil
		}
		if err != nil {
			return fmt.Errorf("dataset %s: create object %d: %w", d.Name, i, err)
		}
		v.Update(view.Counts{Done: created.Add(1), Total: int64(d.Objects), Unit: "objects"})
		return nil
	})
	if err != nil || d.place.Only != "" {
		return true, err // where nothing is kept for a next run, there is nothing to mark
	}
	ns, err := client.CoreV1().Namespaces().Get(ctx, d.namespace(0), metav1.GetOptions{})
	if err != nil {
		return true, fmt.Errorf("dataset %s: %w", d.Name, err)
	}
	if ns.Annotations == nil {
		ns.Annotations = map[string]string{}
	}
	ns.Annotations[loadedAnnotation] = d.spec()
	if _, err := client.CoreV1().Namespaces().Update(ctx, ns, metav1.UpdateOptions{}); err != nil {
		return true, fmt.Errorf("dataset %s: mark as loaded: %w", d.Name, err)
	}
	return true, nil
}

// Count asks the server how many objects each collection serves.
func (d *Set) Count(ctx context.Context, client kubernetes.Interface) error {
	for _, path := range d.Resources {
		var served int64
		for next := ""; ; {
			// Names only, in pages: the server is not to be heated up before it is measured.
			request := RESTClient(client).Get().RequestURI(path+"?limit=500&continue="+url.QueryEscape(next)).
				SetHeader("Accept", "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1")
			var page metav1.PartialObjectMetadataList
			body, err := request.Do(ctx).Raw()
			if err == nil {
				err = json.Unmarshal(body, &page)
			}
			if err != nil {
				return fmt.Errorf("dataset %s: count %s: %w", d.Name, path, err)
			}
			served += int64(len(page.Items))
			if next = page.Continue; next == "" {
				break
			}
		}
		if served < int64(d.Objects) {
			return fmt.Errorf("dataset %s: %s has %d objects, %d were loaded: does something in the cluster remove them?", d.Name, path, served, d.Objects)
		}
		d.Served = served
	}
	return nil
}

// InParallel calls do for 0 … n-1 from a few workers and ends at the first error.
func InParallel(ctx context.Context, workers, n int, do func(ctx context.Context, worker, i int) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var next atomic.Int64
	var all sync.WaitGroup
	for w := range workers {
		all.Go(func() {
			for ctx.Err() == nil {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				if err := do(ctx, w, i); err != nil {
					cancel(err)
				}
			}
		})
	}
	all.Wait()
	if err := context.Cause(ctx); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return ctx.Err()
}

// randomBytes gives n bytes that do not compress, the same for the same seed.
func randomBytes(seed uint64, n int) []byte {
	var key [32]byte
	for i := range 8 {
		key[i] = byte(seed >> (8 * i))
	}
	b := make([]byte, n)
	_, _ = rand.NewChaCha8(key).Read(b) // never fails
	return b
}

// NewConfigMap is object i of a set, with content of its own for every version.
func NewConfigMap(prefix string, i, version, size int) *corev1.ConfigMap {
	return &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("%s-%06d", prefix, i), Labels: map[string]string{"app": "weir-bench"}},
		Data:       map[string]string{"payload": hex.EncodeToString(randomBytes(uint64(i)<<32|uint64(version), size/2))},
	}
}
