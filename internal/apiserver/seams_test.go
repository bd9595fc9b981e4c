// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"fmt"
	"path/filepath"
	"reflect"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/kubernetes/cmd/kube-apiserver/app"

	"github.com/weir-project/weir/internal/etcd"
	"github.com/weir-project/weir/internal/pacer"
	"github.com/weir-project/weir/internal/watchcache"
)

// weir's cache stands exactly where upstream would have its own.
func TestCacheStandsWhereUpstreamsWould(t *testing.T) {
	for _, test := range []struct {
		name  string
		flags []string
		want  map[string]bool // resource: cached
	}{
		{
			name: "default",
			want: map[string]bool{"pods": true, "secrets": true, "events": false},
		}, {
			name:  "--watch-cache=false",
			flags: []string{"--watch-cache=false"},
			want:  map[string]bool{"pods": false, "secrets": false, "events": false},
		}, {
			name:  "--watch-cache-sizes",
			flags: []string{"--watch-cache-sizes=secrets#0,pods#7"},
			want:  map[string]bool{"pods": true, "secrets": false, "events": false},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			// What counts custom resources would stand before the decorator.
			config := assemble(t, append(test.flags, "--etcd-count-metric-poll-period=0")...)
			for resource, cached := range test.want {
				options, err := config.KubeAPIs.ControlPlane.Generic.RESTOptionsGetter.GetRESTOptions(
					schema.GroupResource{Resource: resource}, &corev1.Pod{})
				if err != nil {
					t.Fatal(err)
				}
				if uncached(options.Decorator) == cached {
					t.Errorf("%s: cached = %v, want %v", resource, !cached, cached)
				}
			}
			// Custom resources know --watch-cache only.
			options, err := config.ApiExtensions.ExtraConfig.CRDRESTOptionsGetter.GetRESTOptions(
				schema.GroupResource{Group: "example.com", Resource: "secrets"}, nil)
			if err != nil {
				t.Fatal(err)
			}
			if want := config.Options.Etcd.EnableWatchCache; uncached(options.Decorator) == want {
				t.Errorf("custom resources: cached = %v, want %v", !want, want)
			}
		})
	}
}

// uncached tells whether a resource has weir's storage without a cache.
func uncached(d generic.StorageDecorator) bool {
	return reflect.ValueOf(d).Pointer() == reflect.ValueOf(watchcache.Uncached).Pointer()
}

// The gate decides whose cache it is. It is the process's, so off is tested in a child
// process (cmd/weir).
func TestPlugWrapsEveryStorage(t *testing.T) {
	config := assemble(t)
	for name, getter := range map[string]any{
		"built-in resources": config.KubeAPIs.ControlPlane.Generic.RESTOptionsGetter,
		"API services":       config.Aggregator.GenericConfig.RESTOptionsGetter,
		"CRDs":               config.ApiExtensions.GenericConfig.RESTOptionsGetter,
		"custom resources":   config.ApiExtensions.ExtraConfig.CRDRESTOptionsGetter,
	} {
		if entered, ok := getter.(enteredRESTOptions); ok && name == "custom resources" {
			getter = entered.RESTOptionsGetter
		}
		if _, ok := getter.(cachedRESTOptions); !ok {
			t.Errorf("%s: storage comes from %T", name, getter)
		}
	}
}

// TestOwnReadersShareFrames: nobody has asked the factory for one of these types before it was given weir's informers.
func TestOwnReadersShareFrames(t *testing.T) {
	factory := assemble(t).KubeAPIs.ControlPlane.VersionedInformers
	for _, read := range ownReads {
		if got, want := fmt.Sprintf("%T", factory.InformerFor(read.of.New(), nil)), "*frameinformer.informer"; got != want {
			t.Errorf("the informer of %s is a %s, want a %s", read.resource, got, want)
		}
	}
}

// assemble returns the configuration of a stand-alone server with the given flags,
// plugged but not run.
func assemble(t *testing.T, flags ...string) *app.Config {
	t.Helper()
	dir := t.TempDir()
	o, err := Parse(append([]string{"--data-dir=" + dir}, flags...)...)
	if err != nil {
		t.Fatal(err)
	}
	if err := o.GenericServerRunOptions.ComponentGlobalsRegistry.Set(); err != nil {
		t.Fatal(err)
	}
	if err := o.safeDefaults(); err != nil {
		t.Fatal(err)
	}
	if _, err := newStandalone(o, dir); err != nil {
		t.Fatal(err)
	}
	db, err := etcd.Start(t.Context(), filepath.Join(dir, "etcd"), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	if err := o.set("etcd-servers", db.Endpoint()); err != nil {
		t.Fatal(err)
	}
	o.SecureServing.Listener = listen(t)
	readers := o.ownReaders()
	completed, err := o.Complete(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	config, err := app.NewConfig(completed)
	if err != nil {
		t.Fatal(err)
	}
	plug(t.Context(), config, pacer.Limit{}, readers)
	return config
}
