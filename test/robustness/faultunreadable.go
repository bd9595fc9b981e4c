// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package robustness

import (
	"context"
	"errors"
	"net/http"
	"time"
)

// brokenNamespace has the object that cannot be read. The truth leaves it out: no answer may have it.
const brokenNamespace = "robust-broken"

// brokenKey is that object's key in etcd. It is of one of the resources that are judged, so that their caches meet it.
func brokenKey(f fault) string {
	return registry + brokenResource(f) + "/" + brokenNamespace + "/broken"
}

func brokenResource(f fault) string {
	if f.other {
		return pods
	}
	return configMaps
}

// unreadable puts an object into etcd that cannot be decrypted, or not decoded, and takes it away again. Meanwhile what needs
// it may be refused: lists with 500 or 429, watches with 410 or by their end. None of it may be wrong.
func (r *Run) unreadable(ctx context.Context, f fault) (err error) {
	whole, cancel := context.WithTimeout(context.WithoutCancel(ctx), healing)
	defer cancel()
	value := "k8s:enc:aescbc:v1:lost:0123456789abcdef"
	if f.all {
		value = magic + "\xff\xff\xff\xff"
	}
	path := "/api/v1/namespaces/" + brokenNamespace + "/" + brokenResource(f) + "/broken"
	is := func(status int) error {
		for _, s := range r.servers {
			err := bites(ctx, "the object that cannot be read", func(ctx context.Context) error {
				return wants(status, "read it at "+s.name)(answer(ctx, s.rig, http.MethodGet, path, nil))
			})
			if err != nil {
				return err
			}
		}
		return nil
	}
	defer func() {
		healed := until(whole, "take the object away that cannot be read", func(ctx context.Context) error {
			_, err := r.etcd.Delete(ctx, brokenKey(f))
			return err
		})
		if err = errors.Join(err, healed); err == nil {
			err = is(http.StatusNotFound)
		}
	}()
	over := time.Now().Add(f.lasts)
	if _, err := r.etcd.Put(whole, brokenKey(f), value); err != nil {
		return err
	}
	err = is(http.StatusInternalServerError)
	wait(ctx, time.Until(over))
	return err
}
