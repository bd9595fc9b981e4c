// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package client

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"github.com/weir-project/weir/internal/bench/view"
	"github.com/weir-project/weir/internal/rig"
)

// InformerJob tells the informer child what to start. The child speaks as the reader child does: a job, "ready", "go",
// "done" once every informer has synced, and it then holds the informers until its input ends.
//
// Whether client-go uses watch lists is its own feature gate, which is set in the child's environment before it starts.
type InformerJob struct {
	Access    rig.Access `json:"access"`
	Data      string     `json:"data"`      // name of the dataset: a for Secrets, b for Pods
	Namespace string     `json:"namespace"` // empty for all
	Format    Format     `json:"format"`
	Gzip      bool       `json:"gzip"`      // ask for compressed responses, as client-go does unless it is told not to
	WatchList bool       `json:"watchList"` // client-go's gate WatchListClient
	Count     int        `json:"count"`
	Expect    int        `json:"expect"` // objects that each informer must hold
}

// watchListClientEnv is how client-go's gate WatchListClient is set from outside.
const watchListClientEnv = "KUBE_FEATURE_WatchListClient"

func newInformersCommand() *cobra.Command {
	return newClientCommand(informersSubcommand, serveInformers)
}

func serveInformers(ctx context.Context, stdin io.Reader, stdout io.Writer) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	in, out := json.NewDecoder(bufio.NewReader(stdin)), &reporter{out: json.NewEncoder(stdout)}
	var job InformerJob
	if err := in.Decode(&job); err != nil {
		return fmt.Errorf("read the job: %w", err)
	}
	var received, responses, compressed atomic.Int64
	run := make([]cache.SharedIndexInformer, job.Count)
	for i := range run {
		informer, err := job.informer(&received, func(next http.RoundTripper) http.RoundTripper {
			return &countedResponses{next: next, all: &responses, compressed: &compressed}
		})
		if err != nil {
			return err
		}
		run[i] = informer
	}
	if err := out.report(Report{Stage: StageReady}); err != nil {
		return err
	}
	var start json.RawMessage
	if err := in.Decode(&start); err != nil {
		return fmt.Errorf("wait for the start: %w", err)
	}
	ended := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, stdin)
		close(ended)
		cancel()
	}()
	report := Report{Stage: StageDone, Seconds: make([]float64, job.Count)}
	began := time.Now()
	var synced, running sync.WaitGroup
	var done atomic.Int64
	endProgress := out.progress(func() view.Counts {
		return view.Counts{Done: done.Load(), Total: int64(job.Count), Unit: "synced", Bytes: received.Load()}
	})
	for i, informer := range run {
		running.Go(func() { informer.Run(ctx.Done()) })
		synced.Go(func() {
			cache.WaitForCacheSync(ctx.Done(), informer.HasSynced)
			report.Seconds[i] = time.Since(began).Seconds()
			done.Add(1)
		})
	}
	synced.Wait()
	endProgress()
	for i, informer := range run {
		if n := len(informer.GetStore().ListKeys()); n != job.Expect {
			report.Failed++
			report.Errors = append(report.Errors, fmt.Sprintf("informer %d holds %d objects, want %d", i, n, job.Expect))
		}
	}
	report.Bytes, report.Responses, report.Compressed = received.Load(), responses.Load(), compressed.Load()
	report.Events = int64(job.Expect * job.Count)
	err := out.report(report)
	<-ended
	running.Wait()
	return err
}

// informer makes a client-go informer with a client, and so a connection, of its own. What objects hold is dropped as
// soon as it is decoded: 64 informers of 400 MB each would not fit on the machine that is measured.
func (job *InformerJob) informer(received *atomic.Int64, counted func(http.RoundTripper) http.RoundTripper) (cache.SharedIndexInformer, error) {
	config, err := job.Access.RESTConfig("weir-bench-informer")
	if err != nil {
		return nil, err
	}
	// Left alone, client-go asks for built-in types in protobuf.
	if job.Format != FormatProtobuf {
		config.ContentConfig = rest.ContentConfig{ContentType: job.Format.MediaType(), AcceptContentTypes: job.Format.MediaType()}
	}
	config.Wrap(counted)
	config.DisableCompression = !job.Gzip
	dial := config.Dial
	config.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return &countedConn{Conn: conn, received: received}, nil
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	core := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithNamespace(job.Namespace)).Core().V1()
	var informer cache.SharedIndexInformer
	switch job.Data {
	case "a":
		informer = core.Secrets().Informer()
	case "b":
		informer = core.Pods().Informer()
	default:
		return nil, fmt.Errorf("dataset %q: unknown", job.Data)
	}
	return informer, informer.SetTransform(func(object any) (any, error) {
		switch o := object.(type) {
		case *corev1.Secret:
			o.Data, o.ManagedFields = nil, nil
		case *corev1.Pod:
			o.Spec, o.Status, o.ManagedFields = corev1.PodSpec{}, corev1.PodStatus{}, nil
		}
		return object, nil
	})
}

// countedConn view.Counts the bytes that come from the server, as they are on the wire.
type countedConn struct {
	net.Conn
	received *atomic.Int64
}

func (c *countedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.received.Add(int64(n))
	return n, err
}

// countedResponses counts the responses of status 200, and those that net/http has inflated.
type countedResponses struct {
	next            http.RoundTripper
	all, compressed *atomic.Int64
}

// RoundTrip implements http.RoundTripper.
func (c *countedResponses) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := c.next.RoundTrip(req)
	if err == nil && resp.StatusCode == http.StatusOK {
		c.all.Add(1)
		if resp.Uncompressed {
			c.compressed.Add(1)
		}
	}
	return resp, err
}
