// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

// Package webhook has a conversion webhook for tests, over TLS, that keeps account of what it is asked and can be slow, fail, lie and go away.
package webhook

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// Object is one in JSON, decoded.
type Object = map[string]any

// Convert makes of an object what it is in another version, in place. A webhook that is asked about it fails with its error.
type Convert func(o Object, apiVersion string) error

// Answer is what a webhook says to a review, instead of what is right. It may change the response. A status other than 0 is sent in place of it.
type Answer func(review *apiextensionsv1.ConversionRequest, response *apiextensionsv1.ConversionResponse) (status int)

// Asked is what has been asked since Reset.
type Asked struct {
	// Requests have arrived, and Objects in all of them. Most is how many one had, Held how many requests had to wait.
	Requests, Objects, Most, Held int
	// Times is how often each was asked about: the version wanted, and the object as it is stored.
	Times map[string]int
}

// Webhook is one. Its methods may be called by any number of goroutines.
type Webhook struct {
	t       testing.TB
	address string
	convert Convert

	mu     sync.Mutex
	server *httptest.Server
	asked  Asked
	answer Answer
	// held is closed when requests are answered, nil if at once; stopped when the webhook has stopped.
	held    chan struct{}
	holds   func(*apiextensionsv1.ConversionRequest) bool
	stopped chan struct{}
}

// Start starts a webhook, which ends with the test.
func Start(t testing.TB, convert Convert) *Webhook {
	t.Helper()
	h := &Webhook{t: t, address: "127.0.0.1:0", convert: convert}
	h.Reset()
	h.Restart()
	t.Cleanup(func() {
		h.Release()
		h.Stop()
	})
	return h
}

// Restart has the webhook serve again where it has.
func (h *Webhook) Restart() {
	h.t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	listener, err := net.Listen("tcp", h.address)
	if err != nil {
		h.t.Fatal(err)
	}
	h.address = listener.Addr().String()
	s := httptest.NewUnstartedServer(http.HandlerFunc(h.serve))
	_ = s.Listener.Close() // it was for any address
	s.Listener = listener
	s.EnableHTTP2 = true
	s.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	h.server, h.stopped = s, make(chan struct{})
}

// Stop ends the webhook, and every request: connections to it are then refused.
func (h *Webhook) Stop() {
	h.mu.Lock()
	s := h.server
	if s != nil {
		close(h.stopped)
	}
	h.server = nil
	h.mu.Unlock()
	if s != nil {
		s.CloseClientConnections()
		s.Close()
	}
}

// Conversion is spec.conversion of a definition that is converted by the webhook.
func (h *Webhook) Conversion() Object {
	h.mu.Lock()
	defer h.mu.Unlock()
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: h.server.Certificate().Raw})
	return Object{"strategy": "Webhook", "webhook": Object{
		"conversionReviewVersions": []string{"v1"},
		"clientConfig":             Object{"url": "https://" + h.address + "/convert", "caBundle": ca},
	}}
}

// Says has the webhook answer otherwise from now on; nil is what is right.
func (h *Webhook) Says(answer Answer) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.answer = answer
}

// Hold has the requests of which holds is true wait until Release.
func (h *Webhook) Hold(holds func(*apiextensionsv1.ConversionRequest) bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.held, h.holds = make(chan struct{}), holds
}

// Release ends Hold.
func (h *Webhook) Release() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.held != nil {
		close(h.held)
		h.held = nil
	}
}

// Reset begins to count anew.
func (h *Webhook) Reset() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.asked = Asked{Times: map[string]int{}}
}

// Asked returns what has been asked since Reset.
func (h *Webhook) Asked() Asked {
	h.mu.Lock()
	defer h.mu.Unlock()
	asked := h.asked
	asked.Times = maps.Clone(asked.Times)
	return asked
}

func (h *Webhook) serve(w http.ResponseWriter, req *http.Request) {
	var review apiextensionsv1.ConversionReview
	if err := json.NewDecoder(req.Body).Decode(&review); err != nil || review.Request == nil {
		http.Error(w, fmt.Sprintf("no ConversionReview: %v", err), http.StatusBadRequest)
		return
	}
	answer := h.note(review.Request, req)
	response := &apiextensionsv1.ConversionResponse{UID: review.Request.UID, Result: metav1.Status{Status: metav1.StatusSuccess}}
	for _, raw := range review.Request.Objects {
		converted, err := h.converted(raw.Raw, review.Request.DesiredAPIVersion)
		if err != nil {
			response.ConvertedObjects, response.Result = nil, metav1.Status{Status: metav1.StatusFailure, Message: err.Error()}
			break
		}
		response.ConvertedObjects = append(response.ConvertedObjects, runtime.RawExtension{Raw: converted})
	}
	if answer != nil {
		if status := answer(review.Request, response); status != 0 {
			http.Error(w, "as it was told to", status)
			return
		}
	}
	review.Request, review.Response = nil, response
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(&review) // who asked may be gone
}

// note counts a request, and holds it if it is to be held.
func (h *Webhook) note(asked *apiextensionsv1.ConversionRequest, req *http.Request) Answer {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.asked.Requests++
	h.asked.Objects += len(asked.Objects)
	h.asked.Most = max(h.asked.Most, len(asked.Objects))
	for _, raw := range asked.Objects {
		h.asked.Times[asked.DesiredAPIVersion+" "+string(raw.Raw)]++
	}
	if held, stopped := h.held, h.stopped; held != nil && h.holds(asked) {
		h.asked.Held++
		h.mu.Unlock()
		select {
		case <-held:
		case <-stopped:
		case <-req.Context().Done():
		}
		h.mu.Lock()
	}
	return h.answer
}

func (h *Webhook) converted(raw []byte, apiVersion string) ([]byte, error) {
	var o Object
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber() // what it does not change it does not round
	if err := d.Decode(&o); err != nil {
		return nil, err
	}
	if err := h.convert(o, apiVersion); err != nil {
		return nil, err
	}
	o["apiVersion"] = apiVersion
	return json.Marshal(o)
}
