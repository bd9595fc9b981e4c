// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package robustness

import (
	"bufio"
	"compress/flate"
	"compress/gzip"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"

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

// collection is the path of a resource, in all namespaces if namespace is empty. The version is a custom resource's.
func collection(resource, version, namespace string) string {
	p := "/api/v1/"
	switch resource {
	case widgets:
		p = "/apis/" + group + "/" + version + "/"
	case gadgets:
		p = "/apis/" + gadgetsGroup + "/v2/"
	}
	if namespace != "" {
		p += "namespaces/" + namespace + "/"
	}
	return p + resource
}

// path is what a scope is asked for by.
func path(c history.Scope, q url.Values) string {
	var selected []string
	field := func(name, value string) {
		if value != "" {
			selected = append(selected, name+"="+value)
		}
	}
	namespace := c.Namespace
	if c.ByField {
		namespace = ""
		field("metadata.namespace", c.Namespace)
	}
	field("metadata.name", c.Name)
	field("spec.nodeName", c.Node)
	field(c.Field, c.FieldValue)
	if len(selected) > 0 {
		q.Set("fieldSelector", strings.Join(selected, ","))
	}
	if c.LabelKey != "" {
		q.Set("labelSelector", c.LabelKey+"="+c.LabelValue)
	}
	if s := c.ShardSelector(); s != "" {
		q.Set("shardSelector", s)
	}
	return collection(c.Resource, c.Version, namespace) + "?" + q.Encode()
}

// request makes one to a server behind its link.
func (s *server) request(ctx context.Context, f format, what asked, path string) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.behind.Base+path, nil)
	if err != nil {
		return nil, err
	}
	s.behind.Authorize(req)
	req.Header.Set("Accept", f.accept(what))
	if f.compressed() {
		req.Header.Set("Accept-Encoding", "gzip") // with this set, the transport leaves it to us
	}
	return req, nil
}

// unzipped is the body of an answer, without compression.
func unzipped(resp *http.Response) io.Reader {
	if resp.Header.Get("Content-Encoding") != "gzip" {
		return resp.Body
	}
	return &members{body: bufio.NewReader(resp.Body)}
}

// members reads what is compressed in several members, one behind the other. Other than gzip.Reader does by itself, it
// returns what a member ends with before it waits for the next: there may be none for long, in a watch.
type members struct {
	body *bufio.Reader
	zip  *gzip.Reader
	open bool // zip is inside of a member
}

// Read reads what is uncompressed. What is not compressed rightly is errStream.
func (m *members) Read(p []byte) (int, error) {
	for {
		if err := m.next(); err != nil {
			return 0, broken(err)
		}
		n, err := m.zip.Read(p)
		if err == io.EOF {
			m.open = false
			if err = nil; n == 0 {
				continue
			}
		}
		return n, broken(err)
	}
}

func (m *members) next() (err error) {
	switch {
	case m.open:
		return nil
	case m.zip == nil:
		m.zip, err = gzip.NewReader(m.body)
	default:
		err = m.zip.Reset(m.body)
	}
	if err != nil {
		return err
	}
	m.zip.Multistream(false)
	m.open = true
	return nil
}

func broken(err error) error {
	var corrupt flate.CorruptInputError
	if errors.Is(err, gzip.ErrHeader) || errors.Is(err, gzip.ErrChecksum) || errors.As(err, &corrupt) {
		return fmt.Errorf("%w: %w", errStream, err)
	}
	return err
}
