// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"time"

	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	basecompatibility "k8s.io/component-base/compatibility"
	"k8s.io/component-base/featuregate"
	utilversion "k8s.io/component-base/version"
	"k8s.io/klog/v2"
	"k8s.io/kubernetes/cmd/kube-apiserver/app"

	_ "github.com/weir-project/weir/internal/apiserver/kubeversion" // /version and the user agent
	"github.com/weir-project/weir/internal/etcd"
)

// Ready describes a server that answers /readyz with ok.
type Ready struct {
	// URL is where a client on this host finds the server, "https://127.0.0.1:6443".
	URL string
	// Etcd names the etcd in use, for people.
	Etcd string
	// Kubeconfig is the path of the admin's kubeconfig. Empty if none was written:
	// beside an external etcd, or with a --client-ca-file.
	Kubeconfig string
	// Client is an administrator's client configuration: the kubeconfig's, over real
	// TLS, or without one the server's own loopback client. The receiver owns it.
	Client *rest.Config
}

// Run serves until ctx ends, then drains as upstream does and returns nil when
// everything is stopped, embedded etcd last. ready, if not nil, is called once, from
// another goroutine, as soon as the server answers /readyz with ok.
//
// An error before that means that nothing was served; bad input is found before any
// file is written where that is possible.
func (o *Options) Run(ctx context.Context, ready func(Ready)) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)

	if err := o.GenericServerRunOptions.ComponentGlobalsRegistry.Set(); err != nil {
		return err
	}
	rest.SetDefaultWarningHandler(rest.NoWarnings{}) // as upstream: no warnings about one's own loopback requests

	embedded, err := o.standalone()
	if err != nil {
		return err
	}
	if embedded {
		if err := o.safeDefaults(); err != nil {
			return err
		}
	}
	if err := o.endWatchesAtShutdown(embedded); err != nil {
		return err
	}
	if err := o.listen(ctx, embedded); err != nil {
		return err
	}
	// From here the listener is ours until the server closes it; closing twice is harmless.
	defer func() {
		if o.SecureServing.Listener != nil {
			_ = o.SecureServing.Listener.Close()
		}
	}()

	r := Ready{Etcd: strings.Join(o.Etcd.StorageConfig.Transport.ServerList, ",")}
	if embedded {
		stop, err := o.startStandalone(ctx, cancel, &r)
		if err != nil {
			return stopped(ctx, err)
		}
		defer stop()
	} else if err := o.checkEtcd(ctx); err != nil {
		return stopped(ctx, err)
	}
	return stopped(ctx, o.serve(ctx, ready, r))
}

// stopped returns what ended the server: err, or what cancelled ctx unless that was
// the caller, who gets nil for it.
func stopped(ctx context.Context, err error) error {
	cause := context.Cause(ctx)
	switch {
	case cause == nil:
		return err
	case errors.Is(cause, context.Canceled):
		if errors.Is(err, context.Canceled) {
			return nil
		}
		return err
	default:
		return cause
	}
}

// watchGrace and standaloneWatchGrace are what --shutdown-watch-termination-grace-period is if it is not given. Upstream's default is
// 0: a server that is asked to end keeps its watches, and itself, for --request-timeout, and then breaks them off. With a period it
// ends them in order, evenly spread over it but 200 a second at least, and goes when they are gone. It spreads them for the sake of
// the servers that their clients go to. Stand-alone there are none, and a period only has to be enough to end them.
const (
	watchGrace           = "10s"
	standaloneWatchGrace = "2s"
)

// endWatchesAtShutdown has watches end when the server is asked to, unless flags say otherwise.
func (o *Options) endWatchesAtShutdown(embedded bool) error {
	const flag = "shutdown-watch-termination-grace-period"
	if o.changed(flag) {
		return nil
	}
	if embedded {
		return o.set(flag, standaloneWatchGrace)
	}
	return o.set(flag, watchGrace)
}

// standalone reports whether the server brings its own etcd.
func (o *Options) standalone() (bool, error) {
	if !o.changed("etcd-servers") {
		return o.DataDir != "", nil
	}
	if o.changed("data-dir") {
		return false, errors.New("--data-dir is for the embedded etcd and --etcd-servers names another: give one of them")
	}
	return false, nil
}

// startStandalone makes what a newcomer would have to prepare, starts etcd and fills
// in r. It ends the server, by cancel, if etcd ends.
func (o *Options) startStandalone(ctx context.Context, cancel context.CancelCauseFunc, r *Ready) (stop func(), err error) {
	dir, err := filepath.Abs(o.DataDir)
	if err != nil {
		return nil, fmt.Errorf("cannot find the data directory %s: %w", o.DataDir, err)
	}
	lock, err := o.lockDir(ctx, dir)
	if err != nil {
		return nil, err
	}
	o.report(Progress{Stage: StageDirectory, Over: true, Detail: dir})
	defer func() {
		if err != nil {
			lock.Release()
		}
	}()
	// Everything that may be wrong with the directory is found before anything is written.
	etcdDir := filepath.Join(dir, "etcd")
	if err := etcd.CheckDir(etcdDir); err != nil {
		return nil, err
	}
	o.report(Progress{Stage: StageCertificates})
	s, err := newStandalone(o, dir)
	if err != nil {
		return nil, err
	}
	o.report(Progress{Stage: StageCertificates, Over: true, Detail: "in " + filepath.Join(o.DataDir, "pki")})
	o.report(Progress{Stage: StageEtcd})
	db, err := etcd.Start(ctx, etcdDir, o.Log)
	if err != nil {
		return nil, err
	}
	o.report(Progress{Stage: StageEtcd, Over: true, Detail: db.Version() + ", files in " + filepath.Join(o.DataDir, "etcd")})
	defer func() {
		if err != nil {
			db.Close()
		}
	}()
	r.Kubeconfig, r.Client, err = s.kubeconfig(o.SecureServing.Listener.Addr())
	if err != nil {
		return nil, err
	}
	if err = o.set("etcd-servers", db.Endpoint()); err != nil {
		return nil, err
	}
	r.Etcd = fmt.Sprintf("embedded %s, files in %s", db.Version(), dir)
	done := make(chan struct{})
	go func() {
		select {
		case err := <-db.Err():
			cancel(fmt.Errorf("embedded etcd stopped: %w", err))
		case <-done:
		}
	}()
	return func() {
		close(done)
		db.Close()
		lock.Release()
	}, nil
}

// lockDir takes the lock of the data directory. If the port had to be waited for, the process that held it may hold the lock
// for a moment more.
func (o *Options) lockDir(ctx context.Context, dir string) (*etcd.Lock, error) {
	for began := time.Now(); ; {
		lock, err := etcd.LockDir(dir)
		if err == nil || !o.waited || !errors.Is(err, etcd.ErrInUse) || time.Since(began) >= portPatience || ctx.Err() != nil {
			return lock, err
		}
		select {
		case <-ctx.Done():
		case <-time.After(portPause):
		}
	}
}

// serve assembles the chain of servers and runs it.
func (o *Options) serve(ctx context.Context, ready func(Ready), r Ready) error {
	readers := o.ownReaders()
	completed, err := o.Complete(ctx)
	if err != nil {
		return err
	}
	if errs := completed.Validate(); len(errs) != 0 {
		return utilerrors.NewAggregate(errs)
	}
	registry := o.GenericServerRunOptions.ComponentGlobalsRegistry
	if gate, ok := registry.FeatureGateFor(basecompatibility.DefaultKubeComponent).(featuregate.MutableFeatureGate); ok {
		gate.AddMetrics()
	}
	registry.AddMetrics()
	o.report(Progress{Stage: StageAPI})
	klog.InfoS("Starting", "kubernetes", utilversion.Get().GitVersion, "etcd", r.Etcd)

	// One name per process, as in upstream; a second server in one process (tests) goes without.
	if name, err := cache.NewInformerName("kube-apiserver"); err == nil {
		completed.InformerName = name
		defer name.Release()
	}
	config, err := app.NewConfig(completed)
	if err != nil {
		return err
	}
	paced, unpace := context.WithCancel(ctx)
	defer unpace()
	limit, unlimit := o.limit()
	defer unlimit()
	p := plug(paced, config, limit, readers)
	defer o.reportEnd(ctx, p)()
	completedConfig, err := config.Complete()
	if err != nil {
		return err
	}
	server, err := app.CreateServerChain(completedConfig)
	if err != nil {
		return err
	}
	if err := p.serveStatus(server); err != nil {
		return err
	}
	prepared, err := server.PrepareRun()
	if err != nil {
		return err
	}
	if err := p.attach(ctx, server.GenericAPIServer); err != nil {
		return err
	}
	o.report(Progress{Stage: StageAPI, Over: true})

	if ready != nil {
		loopback := rest.CopyConfig(config.KubeAPIs.ControlPlane.Generic.LoopbackClientConfig)
		r.URL = serverURL(config.KubeAPIs.ControlPlane.Generic.SecureServing.Listener.Addr())
		if r.Client == nil {
			r.Client = rest.CopyConfig(loopback)
		}
		pollCtx, stop := context.WithCancel(ctx)
		done := make(chan struct{})
		go func() {
			defer close(done)
			end := o.reportStart(pollCtx, p)
			err := waitReady(pollCtx, loopback)
			end(err == nil)
			if err == nil {
				ready(r)
			}
		}()
		defer func() { stop(); <-done }()
	}
	return prepared.Run(ctx)
}

// waitReady returns when the server answers /readyz with ok.
func waitReady(ctx context.Context, client *rest.Config) error {
	http11, err := rest.HTTPClientFor(client)
	if err != nil {
		return err
	}
	defer http11.CloseIdleConnections()
	return wait.PollUntilContextCancel(ctx, 50*time.Millisecond, true, func(ctx context.Context) (bool, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, client.Host+"/readyz", nil)
		if err != nil {
			return false, err
		}
		resp, err := http11.Do(req)
		if err != nil {
			return false, nil // not serving yet
		}
		_ = resp.Body.Close()
		return resp.StatusCode == http.StatusOK, nil
	})
}
