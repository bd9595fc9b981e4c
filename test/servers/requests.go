// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package servers

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
)

// Request is one request as it goes out: nothing is added but the token.
type Request struct {
	// Method is GET if it is empty.
	Method string
	// Path begins with "/" and has the query behind it.
	Path string
	// Header may have an Authorization of its own. A key without values leaves out what
	// would be added otherwise.
	Header http.Header
	Body   []byte
	// HTTP1 is for a request over HTTP/1.1 instead of HTTP/2.
	HTTP1 bool
}

// Response is an answer that has been read to its end.
type Response struct {
	Status int
	Proto  string
	Header http.Header
	Body   []byte
}

// Open makes a request and leaves the answer to be read.
func (s *Server) Open(ctx context.Context, r Request) (*http.Response, error) {
	client := s.http2
	if r.HTTP1 {
		client = s.http1
	}
	return s.OpenWith(ctx, client, r)
}

// OpenWith does so with a client of the caller's.
func (s *Server) OpenWith(ctx context.Context, client *http.Client, r Request) (*http.Response, error) {
	method := r.Method
	if method == "" {
		method = http.MethodGet
	}
	var body io.Reader
	if r.Body != nil {
		body = bytes.NewReader(r.Body)
	}
	req, err := http.NewRequestWithContext(ctx, method, s.URL+r.Path, body)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+Token)
	for name, values := range r.Header {
		req.Header[http.CanonicalHeaderKey(name)] = values
	}
	return client.Do(req)
}

// Answer makes a request and reads the whole answer. An error is that of a connection:
// every status is an answer.
func (s *Server) Answer(ctx context.Context, r Request) (Response, error) {
	resp, err := s.Open(ctx, r)
	if err != nil {
		return Response{}, err
	}
	defer func() { _ = resp.Body.Close() }() // what was wrong with it, reading has said
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return Response{}, fmt.Errorf("%s: %s: ended after %d bytes: %w", s.Name, r.Path, len(body), err)
	}
	return Response{Status: resp.StatusCode, Proto: resp.Proto, Header: resp.Header, Body: body}, nil
}

// Do makes one request in JSON; status 0 is no answer.
func (s *Server) Do(method, path string, object any) (status int, answer []byte) {
	s.t.Helper()
	r := Request{Method: method, Path: path, Header: http.Header{"Accept": {"application/json"}, "Content-Type": {"application/json"}}}
	if method == http.MethodPatch {
		r.Header.Set("Content-Type", "application/merge-patch+json")
	}
	if object != nil {
		data, err := json.Marshal(object)
		if err != nil {
			s.t.Fatal(err)
		}
		r.Body = data
	}
	ctx, cancel := context.WithTimeout(s.t.Context(), Patience)
	defer cancel()
	resp, err := s.Answer(ctx, r)
	if err != nil {
		return 0, []byte(err.Error())
	}
	return resp.Status, resp.Body
}

// Must makes one request in JSON that has to succeed.
func (s *Server) Must(method, path string, object any) map[string]any {
	s.t.Helper()
	status, answer := s.Do(method, path, object)
	if status/100 != 2 {
		s.t.Fatalf("%s: %s %s: %d %.500s", s.Name, method, path, status, answer)
	}
	var out map[string]any
	if err := json.Unmarshal(answer, &out); err != nil {
		s.t.Fatalf("%s: %s %s: %v", s.Name, method, path, err)
	}
	return out
}

// ResourceVersion returns that of a list or object.
func ResourceVersion(object map[string]any) string {
	m, _ := object["metadata"].(map[string]any)
	rv, _ := m["resourceVersion"].(string)
	return rv
}
