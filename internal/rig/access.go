// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package rig

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// Access is how to reach a server and as whom. Children get it on their standard input, never on a command line: it may
// hold a token. Either URL, CA and Token are set, or Kubeconfig.
type Access struct {
	URL   string `json:"url,omitempty"` // scheme and host
	CA    []byte `json:"ca,omitempty"`  // PEM
	Token string `json:"token,omitempty"`

	Kubeconfig string `json:"kubeconfig,omitempty"` // path
	Context    string `json:"context,omitempty"`    // in it; empty for its current one
}

// RESTConfig is a client-go configuration without any limit on the client's side, and with a connection of its own.
func (a Access) RESTConfig(userAgent string) (*rest.Config, error) {
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

// HTTPClient is a client for raw requests, with a connection of its own, which speaks HTTP/2 and asks for no gzip.
// Requests go to base, a scheme and host, and need what Authorize adds.
func (a Access) HTTPClient(userAgent string) (client *http.Client, base string, err error) {
	if a.Kubeconfig == "" {
		client, err = newHTTPClient(a.CA)
		return client, a.URL, err
	}
	config, err := a.RESTConfig(userAgent)
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

// Authorize adds the token, where there is one; the client of a kubeconfig adds its credentials by itself.
func (a Access) Authorize(req *http.Request) {
	if a.Token != "" {
		req.Header.Set("Authorization", "Bearer "+a.Token)
	}
}

// WriteKubeconfig writes what URL, CA and Token say into a file, for programs that read one.
func (a Access) WriteKubeconfig(path string) error {
	config := clientcmdapi.NewConfig()
	config.Clusters["rig"] = &clientcmdapi.Cluster{Server: a.URL, CertificateAuthorityData: a.CA}
	config.AuthInfos["rig"] = &clientcmdapi.AuthInfo{Token: a.Token}
	config.Contexts["rig"] = &clientcmdapi.Context{Cluster: "rig", AuthInfo: "rig"}
	config.CurrentContext = "rig"
	if err := clientcmd.WriteToFile(*config, path); err != nil {
		return fmt.Errorf("kubeconfig %s: %w", path, err)
	}
	return nil
}

// Admin is an administrator's connection to a server, started here or not, for raw paths. It is safe for concurrent use.
type Admin struct {
	Access
	// HTTP is the client, and Base the URL that paths are put behind.
	HTTP *http.Client
	Base string
}

// NewAdmin makes one. It does not connect yet.
func NewAdmin(a Access, userAgent string) (*Admin, error) {
	client, base, err := a.HTTPClient(userAgent)
	if err != nil {
		return nil, err
	}
	return &Admin{Access: a, HTTP: client, Base: base}, nil
}

// Get reads one path; any status but 200 is an error.
func (a *Admin) Get(ctx context.Context, path string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, a.Base+path, nil)
	if err != nil {
		return nil, err
	}
	a.Authorize(req)
	resp, err := a.HTTP.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, fmt.Errorf("GET %s: %w", path, err)
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("GET %s: %s: %s", path, resp.Status, FirstLine(body))
	}
	return body, nil
}

// WaitReady polls /readyz until it answers 200. It gives up after five minutes.
func (a *Admin) WaitReady(ctx context.Context) error { return a.waitReady(ctx, a.Base, nil) }

func (a *Admin) waitReady(ctx context.Context, name string, p *Process) error {
	return waitReady(ctx, name, p, 5*time.Minute, 100*time.Millisecond, func(ctx context.Context) error {
		_, err := a.Get(ctx, "/readyz")
		return err
	})
}

// newHTTPClient makes a client with a connection of its own that trusts caPEM, speaks HTTP/2 and asks for no gzip.
func newHTTPClient(caPEM []byte) (*http.Client, error) {
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(caPEM) {
		return nil, errors.New("no certificate in the authority's PEM data")
	}
	return &http.Client{Transport: &http.Transport{
		TLSClientConfig:    &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12},
		ForceAttemptHTTP2:  true,
		DisableCompression: true,
	}}, nil
}

// FirstLine is the first line of what somebody answers, cut to a length that is fit for an error.
func FirstLine(b []byte) string {
	line, _, _ := strings.Cut(strings.TrimSpace(string(b)), "\n")
	if len(line) > 300 {
		line = line[:300] + "…"
	}
	return line
}
