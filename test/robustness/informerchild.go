// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package robustness

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/weir-project/weir/internal/rig"
	"github.com/weir-project/weir/test/robustness/history"
)

// informerJob tells the child which informers to run. It is the first line of its input; each line after it asks for an
// informerReport. The child ends with its input.
type informerJob struct {
	Servers   []rig.Access   `json:"servers"`
	Informers []informerSpec `json:"informers"`
}

// informerSpec is one informer.
type informerSpec struct {
	Scope  history.Scope `json:"scope"`
	Format string        `json:"format"`
	// Server is the one that it reads from, -1 for the next one whenever it connects.
	Server int `json:"server"`
	// Brief is how long it lives before another takes its place, so that there are many beginnings; 0 for all the time.
	Brief time.Duration `json:"brief,omitempty"`
}

// informerReport is what one informer holds now.
type informerReport struct {
	Synced bool           `json:"synced"`
	Items  []history.Item `json:"items,omitempty"`
	// Begun is how many there have been in its place, and Compared how often client-go has compared what it got from a
	// watch list with a list.
	Begun    int64 `json:"begun"`
	Compared int64 `json:"compared"`
	Events   int64 `json:"events"`
	// Back are those updates so far that led to an earlier state of an object.
	Back []string `json:"back,omitempty"`
}

// Child is what TestMain of each package that makes runs has to call first: this program is started again by a run, for its
// informers. It returns when this process is none of these, and not otherwise.
func Child() {
	if os.Getenv(asInformers) == "" {
		return
	}
	if err := InformerChild(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// InformerChild runs informers in a process of their own, for client-go reads at its start whether it is to panic where a
// watch list and a list differ.
func InformerChild(stdin io.Reader, stdout io.Writer) error {
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	in, out := bufio.NewReader(stdin), json.NewEncoder(stdout)
	first, err := in.ReadBytes('\n')
	if err != nil {
		return fmt.Errorf("read the job: %w", err)
	}
	var job informerJob
	if err := json.Unmarshal(first, &job); err != nil {
		return fmt.Errorf("read the job: %w", err)
	}
	places := make([]*informerPlace, len(job.Informers))
	for i, spec := range job.Informers {
		places[i] = &informerPlace{spec: spec, servers: job.Servers, rand: rand.New(rand.NewPCG(uint64(i), 1))}
		running.Go(func() { places[i].live(ctx) })
	}
	for {
		if _, err := in.ReadBytes('\n'); err != nil {
			return nil // its input has ended
		}
		reports := make([]informerReport, len(places))
		for i, p := range places {
			if reports[i], err = p.report(); err != nil {
				return err
			}
		}
		if err := out.Encode(reports); err != nil {
			return err
		}
	}
}

// informerPlace is where one informer lives after the other.
type informerPlace struct {
	spec                            informerSpec
	servers                         []rig.Access
	rand                            *rand.Rand
	dials, begun, compared, handled atomic.Int64

	mu   sync.Mutex
	now  cache.SharedIndexInformer
	back []string
}

func (p *informerPlace) live(ctx context.Context) {
	for ctx.Err() == nil {
		life, end := context.WithCancel(ctx)
		if p.spec.Brief > 0 {
			life, end = context.WithTimeout(ctx, p.spec.Brief/2+time.Duration(p.rand.Int64N(int64(p.spec.Brief))))
		}
		informer, err := p.informer(end)
		if err != nil {
			end()
			fmt.Fprintln(os.Stderr, err) // the parent finds that it has not synced, and this in its log
			return
		}
		p.begun.Add(1)
		p.mu.Lock()
		p.now = informer
		p.mu.Unlock()
		informer.RunWithContext(life)
		end()
	}
}

// informer makes one. lost is called when client-go cannot compare any more, for the state that it wants to compare with is
// compacted: it would try so for ever.
func (p *informerPlace) informer(lost func()) (cache.SharedIndexInformer, error) {
	first := max(p.spec.Server, 0)
	config, err := p.servers[first].RESTConfig("robustness-informer")
	if err != nil {
		return nil, err
	}
	config.ContentType, config.AcceptContentTypes = runtime.ContentTypeJSON, runtime.ContentTypeJSON
	if format(p.spec.Format) == inProtobuf {
		config.ContentType, config.AcceptContentTypes = runtime.ContentTypeProtobuf, runtime.ContentTypeProtobuf
	}
	if dial := config.Dial; p.spec.Server < 0 {
		config.Dial = func(ctx context.Context, network, _ string) (net.Conn, error) {
			next := p.servers[int(p.dials.Add(1))%len(p.servers)]
			return dial(ctx, network, strings.TrimPrefix(next.URL, "https://"))
		}
	}
	config.Wrap(func(under http.RoundTripper) http.RoundTripper {
		return roundTrip(func(req *http.Request) (*http.Response, error) {
			resp, err := under.RoundTrip(req)
			if err == nil && req.URL.Query().Get("resourceVersionMatch") == string(metav1.ResourceVersionMatchExact) {
				switch resp.StatusCode {
				case http.StatusOK:
					p.compared.Add(1)
				case http.StatusGone:
					lost()
				}
			}
			return resp, err
		})
	})
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	scope := p.spec.Scope
	core := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithNamespace(scope.Namespace),
		informers.WithTweakListOptions(func(o *metav1.ListOptions) {
			if scope.Node != "" {
				o.FieldSelector = "spec.nodeName=" + scope.Node
			}
			if scope.LabelKey != "" {
				o.LabelSelector = scope.LabelKey + "=" + scope.LabelValue
			}
		})).Core().V1()
	var informer cache.SharedIndexInformer
	if scope.Resource == pods {
		informer = core.Pods().Informer()
	} else {
		informer = core.ConfigMaps().Informer()
	}
	_, err = informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(any) { p.handled.Add(1) },
		UpdateFunc: p.updated,
		DeleteFunc: func(any) { p.handled.Add(1) },
	})
	return informer, err
}

// updated looks whether an object goes back in time.
func (p *informerPlace) updated(before, now any) {
	p.handled.Add(1)
	one, err1 := itemOf(before)
	other, err2 := itemOf(now)
	if err1 == nil && err2 == nil && other.Revision >= one.Revision {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.back) < maxKept {
		p.back = append(p.back, fmt.Sprintf("%v of revision %d after revision %d (%v, %v)", other.Key, other.Revision, one.Revision, err1, err2))
	}
}

func (p *informerPlace) report() (informerReport, error) {
	p.mu.Lock()
	now := p.now
	r := informerReport{Begun: p.begun.Load(), Compared: p.compared.Load(), Events: p.handled.Load(), Back: p.back}
	p.mu.Unlock()
	if now == nil || !now.HasSynced() {
		return r, nil
	}
	r.Synced = true
	for _, o := range now.GetStore().List() {
		it, err := itemOf(o)
		if err != nil {
			return r, err
		}
		r.Items = append(r.Items, it)
	}
	return r, nil
}

// itemOf is what is compared of an informer's object.
func itemOf(o any) (history.Item, error) {
	var of object
	var resource string
	switch o := o.(type) {
	case *corev1.Pod:
		of, resource = ofPod(o), pods
	case *corev1.ConfigMap:
		of, resource = ofConfigMap(o), configMaps
	default:
		_, err := meta.Accessor(o)
		return history.Item{}, fmt.Errorf("an informer holds a %T (%v)", o, err)
	}
	rev, err := of.revision()
	return history.Item{Key: of.key(resource), Revision: rev, Digests: of.digests(resource, inProtobuf)}, err
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }
