// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"strings"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// access is how to reach a server. Client children get it on their standard input, never on a command line: it may hold a
// token. Either URL, CA and Token are set, or Kubeconfig.
type access struct {
	URL   string `json:"url,omitempty"` // scheme and host
	CA    []byte `json:"ca,omitempty"`  // PEM
	Token string `json:"token,omitempty"`

	Kubeconfig string `json:"kubeconfig,omitempty"` // path
	Context    string `json:"context,omitempty"`    // in it; empty for its current one
}

// restConfig is a client-go configuration without any limit on the client's side, and with a connection of its own.
func (a access) restConfig(f format, userAgent string) (*rest.Config, error) {
	config := &rest.Config{Host: a.URL, BearerToken: a.Token, TLSClientConfig: rest.TLSClientConfig{CAData: a.CA}}
	if a.Kubeconfig != "" {
		var err error
		config, err = clientcmd.NewNonInteractiveDeferredLoadingClientConfig(
			&clientcmd.ClientConfigLoadingRules{ExplicitPath: a.Kubeconfig},
			&clientcmd.ConfigOverrides{CurrentContext: a.Context}).ClientConfig()
		if err != nil {
			return nil, fmt.Errorf("kubeconfig %s: %w", a.Kubeconfig, err)
		}
	}
	config.ContentConfig = rest.ContentConfig{ContentType: f.mediaType(), AcceptContentTypes: f.mediaType()}
	config.QPS = -1
	config.UserAgent = userAgent
	config.WarningHandler = rest.NoWarnings{}
	// client-go shares a connection among all configurations that are alike; one with a dial function of its own is alike
	// to none.
	dialer := &net.Dialer{}
	config.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
		return dialer.DialContext(ctx, network, address)
	}
	return config, nil
}

// httpClient is a client for raw requests, with a connection of its own, which speaks HTTP/2 and asks for no gzip.
// Requests go to base, a scheme and host, and need what authorize adds.
func (a access) httpClient(userAgent string) (client *http.Client, base string, err error) {
	if a.Kubeconfig == "" {
		client, err = newHTTPClient(a.CA)
		return client, a.URL, err
	}
	config, err := a.restConfig(formatJSON, userAgent)
	if err != nil {
		return nil, "", err
	}
	config.DisableCompression = true
	if client, err = rest.HTTPClientFor(config); err != nil {
		return nil, "", fmt.Errorf("kubeconfig %s: %w", a.Kubeconfig, err)
	}
	url, _, err := rest.DefaultServerUrlFor(config)
	if err != nil {
		return nil, "", fmt.Errorf("kubeconfig %s: server %q: %w", a.Kubeconfig, config.Host, err)
	}
	url.Path = strings.TrimRight(url.Path, "/")
	return client, url.String(), nil
}

// authorize adds the token, where there is one; the client of a kubeconfig adds its credentials by itself.
func (a access) authorize(req *http.Request) {
	if a.Token != "" {
		req.Header.Set("Authorization", "Bearer "+a.Token)
	}
}
