// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

// Package source asks a server for its status, with a kubeconfig and as its user.
package source

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/weir-project/weir/internal/status"
)

// Source is a server that is asked. Its methods may be called by any number of goroutines.
type Source struct {
	// Host is the server's address, as the kubeconfig has it.
	Host   string
	client rest.Interface
}

// askTime is how long a server may take to answer.
const askTime = 10 * time.Second

// New returns the server that a kubeconfig names. It does not ask it anything.
func New(loader clientcmd.ClientConfig) (*Source, error) {
	config, err := loader.ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("cannot find the server: %w (give --kubeconfig, or set KUBECONFIG)", err)
	}
	config.NegotiatedSerializer = scheme.Codecs.WithoutConversion()
	config.Timeout = askTime
	if config.UserAgent == "" {
		config.UserAgent = rest.DefaultKubernetesUserAgent()
	}
	client, err := rest.UnversionedRESTClientFor(config)
	if err != nil {
		return nil, fmt.Errorf("cannot make a client of the kubeconfig: %w", err)
	}
	return &Source{Host: config.Host, client: client}, nil
}

// Get returns the server's report. If the server wants to be asked again later, it is. An error says what to do about it.
func (s *Source) Get(ctx context.Context) (*status.Report, error) {
	body, err := s.send(ctx, s.client.Get())
	if err != nil {
		return nil, err
	}
	r := &status.Report{}
	if err := json.Unmarshal(body, r); err != nil {
		return nil, fmt.Errorf("cannot read the status of %s: %w (is it a weir of another release?)", s.Host, err)
	}
	return r, nil
}

// Raw returns the server's report as it was sent. It asks once. An error says what to do about it; if the server has answered, it
// wraps an apierrors.APIStatus, which has the code and the server's words.
func (s *Source) Raw(ctx context.Context) ([]byte, error) {
	return s.send(ctx, s.client.Get().MaxRetries(0))
}

func (s *Source) send(ctx context.Context, req *rest.Request) ([]byte, error) {
	result := req.AbsPath(status.Path).Do(ctx)
	if err := result.Error(); err != nil { // unlike Raw's, it is what the server has said
		return nil, s.explain(err)
	}
	body, err := result.Raw()
	if err != nil {
		return nil, s.explain(err)
	}
	return body, nil
}

// explain says what to do about an error.
func (s *Source) explain(err error) error {
	var dial *net.OpError
	switch {
	case apierrors.IsNotFound(err):
		return &explained{fmt.Sprintf("%s has no %s: it is not weir, or an older one, or has its gate EncodedWatchCache off "+
			"(what any kube-apiserver tells of this is in kubectl get --raw /metrics: apiserver_resource_objects, apiserver_longrunning_requests, "+
			"apiserver_request_total, apiserver_response_sizes, process_resident_memory_bytes)", s.Host, status.Path), err}
	case apierrors.IsForbidden(err):
		return fmt.Errorf("%w: the user needs the verb get on the non-resource URL %s (docs/operate.md has a ClusterRole)", err, status.Path)
	case apierrors.IsUnauthorized(err):
		return fmt.Errorf("%s does not know the user of this kubeconfig: %w", s.Host, err)
	case errors.As(err, &dial):
		return fmt.Errorf("cannot reach %s: %w (does it run, and do --kubeconfig or KUBECONFIG name its kubeconfig? weir serve writes admin.kubeconfig under --data-dir)", s.Host, err)
	default:
		return fmt.Errorf("cannot get the status of %s: %w", s.Host, err)
	}
}

// explained is an error in other words than its cause's.
type explained struct {
	words string
	cause error
}

func (e *explained) Error() string { return e.words }

func (e *explained) Unwrap() error { return e.cause }
