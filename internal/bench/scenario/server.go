// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"context"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"

	"github.com/weir-project/weir/internal/bench/report"
	"github.com/weir-project/weir/internal/rig"
)

// Server is what scenarios are run on. It is safe for concurrent use.
type Server struct {
	*rig.Admin
	Target report.Target
	// Client is an administrator's. Its connection is not Admin's.
	Client kubernetes.Interface
	// Started is nil for a cluster that bench did not start.
	Started *rig.Server
	// Static says that it knows lists and watch lists only, and nothing of itself.
	Static bool
}

// NewServer is a server that was started, or with a nil one the cluster that a tells of.
func NewServer(t report.Target, started *rig.Server, a rig.Access) (*Server, error) {
	s := &Server{Target: t, Started: started}
	var err error
	if started != nil {
		a, s.Admin = started.Access, started.Admin
	} else if s.Admin, err = rig.NewAdmin(a, agent); err != nil {
		return nil, err
	}
	config, err := a.RESTConfig(agent)
	if err != nil {
		return nil, err
	}
	config.ContentType, config.AcceptContentTypes = runtime.ContentTypeProtobuf, runtime.ContentTypeProtobuf
	s.Client, err = kubernetes.NewForConfig(config)
	return s, err
}

const agent = "weir-bench"

// Died returns how the server died, if bench started it and it did.
func (s *Server) Died() error {
	if s.Started == nil {
		return nil
	}
	return s.Started.Died()
}

// Alive gives a context that ends, with the reason as its cause, when the server dies.
func (s *Server) Alive(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	if s.Started != nil {
		go func() {
			select {
			case <-s.Started.Done():
				cancel(s.Died())
			case <-ctx.Done():
			}
		}()
	}
	return ctx, func() { cancel(nil) }
}

// WaitReady waits until the server is ready.
func (s *Server) WaitReady(ctx context.Context) error {
	if s.Started == nil {
		return s.Admin.WaitReady(ctx)
	}
	err := s.Started.WaitReady(ctx)
	if died := s.Died(); err != nil && died != nil {
		return died // without its log, which is kept beside the results
	}
	return err
}

// Stop ends a server that bench started.
func (s *Server) Stop() {
	s.HTTP.CloseIdleConnections()
	if s.Started != nil {
		_ = s.Started.Stop(grace) // how it ends after all was measured says nothing
	}
}

// grace is how long a server may take to drain before it is killed.
const grace = 30 * time.Second

// metrics reads the server's account of what it uses. With collect, its garbage is collected before; a server that bench
// did not start is not made to.
func (s *Server) metrics(ctx context.Context, collect bool) (rig.Metrics, error) {
	if collect && s.Started != nil {
		if err := s.Collect(ctx); err != nil {
			return rig.Metrics{}, fmt.Errorf("%s: %w", s.Target.Name, err)
		}
	}
	m, err := s.Metrics(ctx)
	if err != nil {
		return m, fmt.Errorf("metrics of %s: %w", s.Target.Name, err)
	}
	return m, nil
}

// usage is where a server's memory and processor time can be read, and how often that is reasonable.
type usage struct {
	read  func() (rig.Usage, error)
	every time.Duration // distance of two samples
	limit time.Duration // how long to wait for the server to become idle
}

// usage finds out how to read what the server uses.
func (s *Server) usage(ctx context.Context) (usage, error) {
	if s.Started != nil {
		return usage{every: 100 * time.Millisecond, limit: time.Minute, read: s.Started.Usage}, nil
	}
	first, err := s.metrics(ctx, false)
	if err != nil {
		return usage{}, err
	}
	if first.RSS == 0 || first.CPU == 0 {
		return usage{}, fmt.Errorf("metrics of %s: no process_resident_memory_bytes or process_cpu_seconds_total in them", s.Target.Name)
	}
	// Each reading costs the server some processor time, so they are few; and a cluster in use never becomes idle, so
	// there is no long wait for that.
	return usage{every: 2 * time.Second, limit: 5 * time.Second, read: func() (rig.Usage, error) {
		ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
		defer cancel()
		m, err := s.metrics(ctx, false)
		if err != nil {
			return rig.Usage{}, err
		}
		if m.Started != first.Started {
			return rig.Usage{}, fmt.Errorf("metrics of %s: they come from another process than at the beginning: the server has restarted, or several answer behind %s", s.Target.Name, s.Base)
		}
		return rig.Usage{RSS: m.RSS, CPU: m.CPU}, nil
	}}, nil
}
