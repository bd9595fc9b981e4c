// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package ondemand

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/storagebackend/factory"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"
)

// retrySeconds is when a client may come back whose storage could not be opened; what a cache says that is not ready.
const retrySeconds = 1

// slot has one storage, which is open while it is used.
type slot struct {
	// open makes the storage. It may take as long as etcd does not answer.
	open  func() (storage.Interface, factory.DestroyFunc, error)
	clock clock.PassiveClock

	mu sync.Mutex
	// closed says that there will be no storage any more.
	closed bool
	// now is the storage that is open, nil if none is; attempt is who opens one, nil if nobody does. One of them is nil.
	now     *opened
	attempt *attempt
}

// opened is a storage that is open. Its fields belong to the slot's mu.
type opened struct {
	storage.Interface
	destroy factory.DestroyFunc
	// users use it now. If there are none, there have been none since idle.
	users int
	idle  time.Time
}

// attempt is the opening of a storage. err may be read when done is closed.
type attempt struct {
	done chan struct{}
	err  error
}

// use returns the storage, which it opens if it has to. It stays open until release is called, which may be done more than once.
// The error is one that has the client come back.
func (s *slot) use(ctx context.Context) (o storage.Interface, release func(), err error) {
	for {
		o, release, a := s.take(true)
		switch {
		case o != nil:
			return o, release, nil
		case a == nil:
			return nil, nil, unavailable(errDestroyed)
		}
		select {
		case <-a.done:
			if a.err != nil {
				return nil, nil, unavailable(a.err)
			}
		case <-ctx.Done():
			return nil, nil, unavailable(context.Cause(ctx))
		}
	}
}

// useOpen is use if the storage is open, and returns nil if it is not.
func (s *slot) useOpen() (storage.Interface, func()) {
	o, release, _ := s.take(false)
	return o, release
}

// take returns the storage that is open, or else the attempt to open one, which it begins if it is to. It returns neither if the
// slot is closed.
func (s *slot) take(begin bool) (storage.Interface, func(), *attempt) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if o := s.now; o != nil {
		o.users++
		return o.Interface, sync.OnceFunc(func() { s.release(o) }), nil
	}
	if s.attempt == nil && begin && !s.closed {
		s.attempt = &attempt{done: make(chan struct{})}
		go s.try(s.attempt) // until open returns
	}
	return nil, nil, s.attempt
}

func (s *slot) release(o *opened) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if o.users--; o.users == 0 {
		o.idle = s.clock.Now()
	}
}

// try opens the storage.
func (s *slot) try(a *attempt) {
	defer close(a.done)
	opening, destroy, err := s.open()
	s.mu.Lock()
	s.attempt = nil
	closed := s.closed
	switch {
	case err != nil:
		a.err = err
	case closed:
		a.err = errDestroyed
	default:
		s.now = &opened{Interface: opening, destroy: destroy, idle: s.clock.Now()}
	}
	s.mu.Unlock()
	if err == nil && closed {
		destroy()
	}
	if err != nil {
		klog.ErrorS(err, "Opening the storage of a custom resource failed")
	}
}

// sweep closes the storage if nobody has used it for that long.
func (s *slot) sweep(idle time.Duration) {
	s.mu.Lock()
	o := s.now
	if o == nil || o.users > 0 || s.clock.Since(o.idle) < idle {
		s.mu.Unlock()
		return
	}
	s.now = nil
	s.mu.Unlock()
	o.destroy()
}

// close closes the storage for good, whoever uses it.
func (s *slot) close() {
	s.mu.Lock()
	s.closed = true
	o := s.now
	s.now = nil
	s.mu.Unlock()
	if o != nil {
		o.destroy()
	}
}

// errDestroyed is what a storage says that has been destroyed.
var errDestroyed = errors.New("the storage has been closed, because its definition has changed or the server ends")

func unavailable(cause error) error {
	return apierrors.NewTooManyRequests(fmt.Sprintf("storage is (re)initializing: %v", cause), retrySeconds)
}
