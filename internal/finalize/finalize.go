// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package finalize

import (
	"context"
	"errors"
	"net/http"
	"sync"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/storage"
)

// Handler lets the storages know which calls are of one request, if that updates.
func Handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.Method == http.MethodPut || req.Method == http.MethodPatch {
			req = req.WithContext(WithUpdate(req.Context()))
		}
		next.ServeHTTP(w, req)
	})
}

// WithUpdate returns a context for the calls of one request that updates.
func WithUpdate(ctx context.Context) context.Context {
	return context.WithValue(ctx, updateKey{}, &update{})
}

type updateKey struct{}

// update is a request that updates.
type update struct {
	mu sync.Mutex
	// refused has the UIDs of the objects that it has seen last and would not write, by their keys.
	refused map[string]types.UID
}

func (u *update) set(key string, uid types.UID) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.refused == nil {
		u.refused = map[string]types.UID{}
	}
	u.refused[key] = uid
}

func (u *update) get(key string) types.UID {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.refused[key]
}

// Storage returns s with deletions that are of the object that their request has seen. It may be used by any number of
// goroutines if s may.
func Storage(s storage.Interface) storage.Interface { return named{s} }

type named struct{ storage.Interface }

// GuaranteedUpdate implements storage.Interface.
func (n named) GuaranteedUpdate(ctx context.Context, key string, destination runtime.Object, ignoreNotFound bool, preconditions *storage.Preconditions, tryUpdate storage.UpdateFunc, cached runtime.Object) error {
	u, ok := ctx.Value(updateKey{}).(*update)
	if !ok {
		return n.Interface.GuaranteedUpdate(ctx, key, destination, ignoreNotFound, preconditions, tryUpdate, cached)
	}
	u.set(key, "")
	return n.Interface.GuaranteedUpdate(ctx, key, destination, ignoreNotFound, preconditions, func(obj runtime.Object, res storage.ResponseMeta) (runtime.Object, *uint64, error) {
		var uid types.UID
		if object, err := meta.Accessor(obj); err == nil {
			uid = object.GetUID() // before it is changed
		}
		out, ttl, err := tryUpdate(obj, res)
		if err == nil {
			uid = ""
		}
		u.set(key, uid)
		return out, ttl, err
	}, cached)
}

// Delete implements storage.Interface. If its request has just seen an object that it would not write, only that is deleted;
// if there is another, the error is that of an object that is not there.
func (n named) Delete(ctx context.Context, key string, out runtime.Object, preconditions *storage.Preconditions, validate storage.ValidateObjectFunc, cached runtime.Object, opts storage.DeleteOptions) error {
	var uid types.UID
	if u, ok := ctx.Value(updateKey{}).(*update); ok {
		uid = u.get(key)
	}
	if uid == "" {
		return n.Interface.Delete(ctx, key, out, preconditions, validate, cached, opts)
	}
	err := n.Interface.Delete(ctx, key, out, preconditions, func(ctx context.Context, obj runtime.Object) error {
		if object, err := meta.Accessor(obj); err == nil && object.GetUID() != uid {
			return errAnother
		}
		return validate(ctx, obj)
	}, cached, opts)
	if errors.Is(err, errAnother) {
		return storage.NewKeyNotFoundError(key, 0)
	}
	return err
}

// errAnother is for an object that is not the one that was to be deleted.
var errAnother = errors.New("it is another object")
