// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package watchcache

import (
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"strings"
	"testing"

	"go.uber.org/goleak"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apiextensionsconversion "k8s.io/apiextensions-apiserver/pkg/apiserver/conversion"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/features"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/etcd3"

	"github.com/weir-project/weir/internal/conversion"
	"github.com/weir-project/weir/test/etcd"
	"github.com/weir-project/weir/test/model"
	"github.com/weir-project/weir/test/webhook"
)

// newConvertedStores makes storages of Widgets that a webhook converts.
func newConvertedStores(t *testing.T, endpoints []string, hook *webhook.Webhook) *widgetStores {
	t.Helper()
	by, err := json.Marshal(hook.Conversion())
	if err != nil {
		t.Fatal(err)
	}
	definition := &apiextensionsv1.CustomResourceDefinition{Spec: apiextensionsv1.CustomResourceDefinitionSpec{
		Group: widgets.Group, Conversion: &apiextensionsv1.CustomResourceConversion{},
		Versions: []apiextensionsv1.CustomResourceDefinitionVersion{{Name: "v1"}, {Name: "v1beta1"}},
	}}
	if err := json.Unmarshal(by, definition.Spec.Conversion); err != nil {
		t.Fatal(err)
	}
	factory, err := apiextensionsconversion.NewCRConverterFactory(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	batches := &conversion.Batches{}
	w := &widgetStores{kind: model.Widgets(widgetPrefix + "/"), endpoints: endpoints, begins: batches.Codec(unstructured.UnstructuredJSONScheme)}
	if w.converter, _, err = factory.NewConverter(definition); err != nil {
		t.Fatal(err)
	}
	w.caches = NewCaches(Options{Batches: batches})
	return w
}

// TestConvertedModel has a version that a webhook converts to be served beside the one that is stored, and holds every answer against the model.
func TestConvertedModel(t *testing.T) {
	client := etcd.Run(t)
	hook := webhook.Start(t, func(webhook.Object, string) error { return nil })
	s := newConvertedStores(t, client.Endpoints(), hook)
	direct, _ := s.open(t, generic.UndecoratedStorage, "v1")
	world := model.New(t, s.kind, &model.Subject{Name: "store", Storage: direct, PathPrefix: "/registry"}, nil, randomSeed(t))
	stored, _ := s.cache(t, "v1")
	other, _ := s.cache(t, "v1beta1")
	world.Add(&model.Subject{Name: "v1", Storage: inVersion{stored, "v1"}, PathPrefix: "/registry", Cached: true})
	world.Add(&model.Subject{Name: "v1beta1", Storage: inVersion{other, "v1beta1"}, PathPrefix: "/registry", Cached: true})
	for range 2 {
		world.Concurrently(3, modelSteps(t, 40), func() {})
		world.Sequence(modelSteps(t, 60))
	}
	world.Sum("not found", "page", "ADDED", "MODIFIED", "DELETED")
	asked := hook.Asked()
	t.Logf("%d requests about %d objects, %d at once", asked.Requests, asked.Objects, asked.Most)
	if asked.Most == 1 {
		t.Error("no two objects were asked about at once")
	}
}

// TestConvertedFirstRead has a version be read at first while the webhook fails for one object, streamed and as a list, and then for none.
func TestConvertedFirstRead(t *testing.T) {
	for name, with := range map[string]gates{"WatchList": nil, "List": {features.WatchList: false}} {
		t.Run(name, func(t *testing.T) {
			with.set(t)
			etcd3.TestOnlySetFatalOnDecodeError(t, false)
			client := etcd.Run(t)
			hook := webhook.Start(t, func(webhook.Object, string) error { return nil })
			s := newConvertedStores(t, client.Endpoints(), hook)
			direct, _ := s.open(t, generic.UndecoratedStorage, "v1")
			const n = 300
			for i := range n {
				put(t, direct, "v1", fmt.Sprintf("w%d", i), "text")
			}
			want := newWidgetList("v1")
			everything := storage.ListOptions{Recursive: true, Predicate: storage.Everything}
			if err := direct.GetList(t.Context(), widgetPrefix, everything, want); err != nil {
				t.Fatal(err)
			}
			hook.Says(func(r *apiextensionsv1.ConversionRequest, _ *apiextensionsv1.ConversionResponse) int {
				if webhook.Has(r, "w77") {
					return http.StatusInternalServerError
				}
				return 0
			})
			made, _ := s.open(t, s.caches.Decorator(), "v1beta1")
			list := func() (*unstructured.UnstructuredList, error) {
				got := newWidgetList("v1beta1")
				return got, made.GetList(t.Context(), widgetPrefix, everything, got)
			}
			eventually(t, "the cache to say which object cannot be converted", func() bool {
				_, err := list()
				if err == nil {
					t.Fatal("a list is answered although an object cannot be converted")
				}
				return strings.Contains(err.Error(), "/a/w77, ") && strings.Contains(err.Error(), "conversion webhook for example.io/v1, Kind=Widget failed: an error on the server")
			})
			hook.Reset()
			hook.Says(nil)
			eventually(t, "the cache to be ready", func() bool { return made.ReadinessCheck() == nil })
			got, err := list()
			if err != nil {
				t.Fatal(err)
			}
			for i := range got.Items {
				if version := got.Items[i].GetAPIVersion(); version != "example.io/v1beta1" {
					t.Fatalf("%s is in version %s", got.Items[i].GetName(), version)
				}
				got.Items[i].SetAPIVersion("example.io/v1")
			}
			if !reflect.DeepEqual(got.Items, want.Items) {
				t.Errorf("%d objects are other than the %d that are stored", len(got.Items), len(want.Items))
			}
			// Some are asked about because the object in the way is looked for.
			if asked := hook.Asked(); asked.Most < 100 {
				t.Errorf("%d requests about %d objects, %d at once", asked.Requests, asked.Objects, asked.Most)
			}
		})
	}
}

// TestConvertingOrder has changes come while the webhook is asked about those before them, some of objects that are stored in the version which is
// served: they are told in their order.
func TestConvertingOrder(t *testing.T) {
	client := etcd.Run(t)
	hook := webhook.Start(t, func(webhook.Object, string) error { return nil })
	s := newConvertedStores(t, client.Endpoints(), hook)
	direct, _ := s.open(t, generic.UndecoratedStorage, "v1")
	other, _ := s.cache(t, "v1beta1")
	w, err := other.Watch(t.Context(), widgetPrefix, storage.ListOptions{ResourceVersion: "0", Recursive: true, Predicate: storage.Everything})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	for round := range 3 { // more are asked about each time
		hook.Hold(func(*apiextensionsv1.ConversionRequest) bool { return true })
		held := hook.Asked().Held
		var want []string
		for i := range 40 {
			name := fmt.Sprintf("w%d-%d", round, i)
			want = append(want, name)
			if i%4 != 3 {
				put(t, direct, "v1", name, "text")
				continue
			}
			in := fmt.Sprintf(`{"apiVersion":"example.io/v1beta1","kind":"Widget","metadata":{"name":%q,"namespace":"a","uid":%q},"spec":{}}`, name, name)
			if _, err := client.KV.Put(t.Context(), "/registry"+widgetPrefix+"/a/"+name, in); err != nil {
				t.Fatal(err)
			}
		}
		eventually(t, "the webhook to be asked", func() bool { return hook.Asked().Held > held })
		hook.Release()
		for _, name := range want {
			event := <-w.ResultChan()
			if got := fmt.Sprint(event.Object); !strings.Contains(got, name) {
				t.Fatalf("an event tells of %s, want %s", got, name)
			}
		}
	}
	if asked := hook.Asked(); asked.Most < 8 {
		t.Errorf("at most %d were asked about at once", asked.Most)
	}
}

// TestConvertingEnds closes a cache whose webhook does not answer: nobody waits, and nothing is left when it has answered.
func TestConvertingEnds(t *testing.T) {
	client := etcd.Run(t)
	hook := webhook.Start(t, func(webhook.Object, string) error { return nil })
	s := newConvertedStores(t, client.Endpoints(), hook)
	direct, destroy := s.open(t, generic.UndecoratedStorage, "v1")
	for i := range 20 {
		put(t, direct, "v1", fmt.Sprintf("w%d", i), "text")
	}
	destroy()
	before := goleak.IgnoreCurrent()
	hook.Hold(func(*apiextensionsv1.ConversionRequest) bool { return true })
	_, destroy = s.open(t, s.caches.Decorator(), "v1beta1")
	eventually(t, "the webhook to be asked", func() bool { return hook.Asked().Held > 0 })
	destroy()
	if of := len(s.caches.all()); of != 0 {
		t.Errorf("%d caches are there after the last was closed", of)
	}
	hook.Release()
	hook.Stop() // with its connections
	eventually(t, "all goroutines to end", func() bool { return goleak.Find(before) == nil })
	hook.Restart()
}

// TestStoppedAsksNobody: of a watch that was stopped while its first objects were gathered nothing is converted. There is no Decoder here to do so.
func TestStoppedAsksNobody(t *testing.T) {
	d := &converting{follower: &follower{}, out: make(chan watch.Event), stopped: make(chan struct{})}
	close(d.stopped)
	if d.tell([]watch.Event{{Type: watch.Added, Object: &unconverted{rest: &conversion.Unconverted{}}}}) {
		t.Error("it goes on")
	}
}
