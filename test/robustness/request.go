// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package robustness

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http"
	"net/url"

	"github.com/weir-project/weir/test/robustness/history"
)

// smallBuffers is a client over HTTP/1.1 that takes little more from the network than it reads, so that a server notices
// when it does not.
func smallBuffers(ca []byte) *http.Client {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	dialer := &net.Dialer{}
	return &http.Client{Transport: &http.Transport{
		TLSClientConfig:    &tls.Config{RootCAs: pool, NextProtos: []string{"http/1.1"}, MinVersion: tls.VersionTLS12},
		DisableCompression: true,
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			c, err := dialer.DialContext(ctx, network, address)
			if tcp, ok := c.(*net.TCPConn); ok && err == nil {
				err = tcp.SetReadBuffer(32 << 10)
			}
			return c, err
		},
	}}
}

// path is what a scope is asked for by.
func path(c history.Scope, q url.Values) string {
	p := root(c.Resource)
	if c.Namespace != "" {
		p += "namespaces/" + c.Namespace + "/"
	}
	switch {
	case c.Name != "":
		q.Set("fieldSelector", "metadata.name="+c.Name)
	case c.Node != "":
		q.Set("fieldSelector", "spec.nodeName="+c.Node)
	}
	if c.LabelKey != "" {
		q.Set("labelSelector", c.LabelKey+"="+c.LabelValue)
	}
	return p + c.Resource + "?" + q.Encode()
}

// request makes one to a server behind its link.
func (s *server) request(ctx context.Context, accept, path string) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.behind.Base+path, nil)
	if err != nil {
		return nil, err
	}
	s.behind.Authorize(req)
	req.Header.Set("Accept", accept)
	return req, nil
}
