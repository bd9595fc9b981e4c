// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package watchcache

import (
	"bufio"
	"compress/gzip"
	"context"
	"crypto/tls"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	clientscheme "k8s.io/client-go/kubernetes/scheme"

	"github.com/weir-project/weir/internal/ledger"
)

const (
	// tight is a budget for derived encodings that has room for some of what is sent at once.
	tight = 512 << 10
	// crowd is how many objects there are, in several rows, and writes how often one changes.
	crowd, writes = 80, 90
	// lastName is the name of the object that is written last.
	lastName = "zz-last"
)

// pace is how a client reads.
type pace int

const (
	eager   pace = iota
	slow         // nothing but the first bytes until everything is written
	leaving      // nothing but the first bytes
)

// firstBytes are what a client reads that is slow or leaves.
const firstBytes = 5000

// reader is a client of lists or watches.
type reader struct {
	http   *http.Client
	url    string
	accept string
	// selector is of labels.
	selector string
	gzip     bool
	pace     pace
	// written is closed when everything is.
	written <-chan struct{}
}

func (r reader) String() string {
	return fmt.Sprintf("%s, selector %q, gzip %t, pace %d", r.accept, r.selector, r.gzip, r.pace)
}

func (r reader) selects(m *corev1.ConfigMap) bool {
	return r.selector == "" || r.selector == "app="+m.Labels["app"]
}

// open makes a request and returns its body, plain.
func (r reader) open(ctx context.Context, query string) (*plainBody, error) {
	if r.accept == inTable {
		query += "&includeObject=Object"
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.url+"/api/v1/configmaps?"+query+"&labelSelector="+url.QueryEscape(r.selector), nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", r.accept)
	if r.gzip {
		req.Header.Set("Accept-Encoding", "gzip")
	}
	resp, err := r.http.Do(req)
	if err != nil {
		return nil, err
	}
	b := &plainBody{resp: resp, compressed: r.gzip}
	if encoding := resp.Header.Get("Content-Encoding"); resp.StatusCode != http.StatusOK || (encoding == "gzip") != r.gzip {
		text, err := io.ReadAll(io.LimitReader(resp.Body, 500))
		return nil, errors.Join(err, resp.Body.Close(), fmt.Errorf("status %d, encoding %q: %q", resp.StatusCode, encoding, text))
	}
	from := io.Reader(resp.Body)
	if r.pace == slow {
		from = io.MultiReader(io.LimitReader(resp.Body, firstBytes), &waiting{r.written, resp.Body})
	}
	b.in = bufio.NewReader(from)
	return b, nil
}

// waiting is read after something has happened.
type waiting struct {
	until <-chan struct{}
	io.Reader
}

// Read implements io.Reader.
func (w *waiting) Read(p []byte) (int, error) {
	<-w.until
	return w.Reader.Read(p)
}

// plainBody is the body of a response, which is one gzip member if it is compressed.
type plainBody struct {
	resp       *http.Response
	in         *bufio.Reader
	compressed bool
	z          *gzip.Reader
}

// Read implements io.Reader.
func (b *plainBody) Read(p []byte) (n int, err error) {
	if !b.compressed {
		return b.in.Read(p)
	}
	if b.z == nil {
		if b.z, err = gzip.NewReader(b.in); err != nil {
			return 0, err
		}
		b.z.Multistream(false)
	}
	n, err = b.z.Read(p)
	if err == io.EOF {
		if _, more := b.in.Peek(1); more != io.EOF {
			err = fmt.Errorf("there is something behind the gzip member: %v", more)
		}
	}
	return n, err
}

// Close implements io.Closer.
func (b *plainBody) Close() error { return b.resp.Body.Close() }

// follow reads a watch from its initial events to its end, which is there when everybody has come
// to the last object. seen is called when it has, or will not.
func (r reader) follow(ctx context.Context, w *twin, begun, seen func()) error {
	defer seen()
	defer begun()
	body, err := r.open(ctx, "watch=1&allowWatchBookmarks=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan")
	if err != nil {
		return err
	}
	defer body.Close()
	if r.pace == leaving {
		_, err := io.CopyN(io.Discard, body.resp.Body, firstBytes)
		return err
	}
	if r.pace == slow {
		begun()
	}
	next := r.events(body)
	var initial, live []tale
	var from string
	for {
		e, err := next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return fmt.Errorf("after %d and %d events: %w", len(initial), len(live), err)
		}
		switch {
		case e.what == watch.Bookmark && from == "":
			if from = e.obj.ResourceVersion; e.obj.Annotations[metav1.InitialEventsAnnotationKey] != "true" {
				return fmt.Errorf("%v does not end the initial events", e)
			}
			begun()
		case e.what == watch.Bookmark:
		case from == "":
			initial = append(initial, e)
		default:
			if live = append(live, e); e.obj.Name == lastName {
				seen()
			}
		}
	}
	rev, err := parseRevision(from)
	if err != nil {
		return fmt.Errorf("the bookmark is of %q: %w", from, err)
	}
	return errors.Join(differ("initial event", initial, w.list(rev, r.selects)), differ("event", live, w.since(rev, r.selects)))
}

// events returns what reads the next event.
func (r reader) events(body io.Reader) func() (tale, error) {
	if strings.Contains(r.accept, "protobuf") {
		return func() (tale, error) {
			var size [4]byte
			if _, err := io.ReadFull(body, size[:]); err != nil {
				return tale{}, err
			}
			data := make([]byte, binary.BigEndian.Uint32(size[:]))
			if _, err := io.ReadFull(body, data); err != nil {
				return tale{}, fmt.Errorf("an event of %d bytes: %w", len(data), err)
			}
			var e metav1.WatchEvent
			if err := e.Unmarshal(data); err != nil {
				return tale{}, err
			}
			return taleOf(e)
		}
	}
	decoder := json.NewDecoder(body)
	return func() (tale, error) {
		var e metav1.WatchEvent
		if err := decoder.Decode(&e); err != nil {
			return tale{}, err
		}
		var table struct {
			Kind string
			Rows []struct{ Object runtime.RawExtension }
		}
		if err := json.Unmarshal(e.Object.Raw, &table); err != nil {
			return tale{}, err
		}
		if len(table.Rows) == 1 {
			e.Object = table.Rows[0].Object
		}
		return taleOf(e)
	}
}

func taleOf(e metav1.WatchEvent) (tale, error) {
	obj, err := runtime.Decode(clientscheme.Codecs.UniversalDeserializer(), e.Object.Raw)
	if err != nil {
		return tale{}, err
	}
	m, ok := obj.(*corev1.ConfigMap)
	if !ok {
		return tale{}, fmt.Errorf("%s of %T: %+v", e.Type, obj, obj)
	}
	m.TypeMeta = metav1.TypeMeta{}
	return tale{watch.EventType(e.Type), m}, nil
}

// list lists once.
func (r reader) list(ctx context.Context, w *twin, query string) error {
	body, err := r.open(ctx, query)
	if err != nil {
		return err
	}
	defer body.Close()
	if r.pace == leaving {
		_, err := io.CopyN(io.Discard, body.resp.Body, firstBytes)
		return err
	}
	data, err := io.ReadAll(body)
	if err != nil {
		return fmt.Errorf("after %d bytes: %w", len(data), err)
	}
	obj, err := runtime.Decode(clientscheme.Codecs.UniversalDeserializer(), data)
	if err != nil {
		return err
	}
	list, ok := obj.(*corev1.ConfigMapList)
	if !ok {
		return fmt.Errorf("a list is %T", obj)
	}
	rev, err := parseRevision(list.ResourceVersion)
	if err != nil {
		return err
	}
	var items []tale
	for i := range list.Items {
		list.Items[i].TypeMeta = metav1.TypeMeta{}
		items = append(items, tale{watch.Added, &list.Items[i]})
	}
	return differ("item", items, w.list(rev, r.selects))
}

func parseRevision(text string) (rev uint64, err error) {
	_, err = fmt.Sscan(text, &rev)
	return rev, err
}

// differ tells how two sequences differ: nil if they do not.
func differ(what string, got, want []tale) error {
	for i := range min(len(got), len(want)) {
		if got[i].what != want[i].what || !apiequality.Semantic.DeepEqual(got[i].obj, want[i].obj) {
			return fmt.Errorf("%s %d is\n%v, and should be\n%v", what, i, got[i], want[i])
		}
	}
	if len(got) != len(want) {
		return fmt.Errorf("there are %d times %s, and should be %d", len(got), what, len(want))
	}
	return nil
}

// clientsOf returns clients that read little ahead of who reads from them.
func clientsOf(t *testing.T) []*http.Client {
	insecure := &tls.Config{InsecureSkipVerify: true} // the certificate is the server's own, on loopback
	h2 := &http.Transport{DisableCompression: true, TLSClientConfig: insecure.Clone(), ForceAttemptHTTP2: true, HTTP2: &http.HTTP2Config{MaxReceiveBufferPerStream: 64 << 10}}
	h1 := &http.Transport{DisableCompression: true, TLSClientConfig: insecure.Clone()}
	h1.TLSClientConfig.NextProtos = []string{"http/1.1"}
	t.Cleanup(h1.CloseIdleConnections)
	t.Cleanup(h2.CloseIdleConnections)
	return []*http.Client{{Transport: h2}, {Transport: h1}}
}

const (
	inJSON     = "application/json"
	inProtobuf = "application/vnd.kubernetes.protobuf"
	inTable    = "application/json;as=Table;v=v1;g=meta.k8s.io"
)

// readers returns one of each kind.
func readers(t *testing.T, server *httptest.Server, written <-chan struct{}, accepts []string, paces []pace) (out []reader) {
	for _, client := range clientsOf(t) {
		for _, accept := range accepts {
			for _, selector := range []string{"", "app=web"} {
				for _, p := range paces {
					for _, gzip := range []bool{true, false} {
						if gzip || p == eager {
							out = append(out, reader{client, server.URL, accept, selector, gzip, p, written})
						}
					}
				}
			}
		}
	}
	return out
}

// TestSharedCompression has many clients read compressed lists and watch lists of one collection
// while its objects change, with a budget that is too small for what they share. Some are slow and
// some leave. What each is told has to be what a list of all writes says.
func TestSharedCompression(t *testing.T) {
	before := ledger.Process.Bytes(ledger.Streams)
	s := newMapServer(t, tight)
	server := s.serve(t)
	t.Cleanup(server.Close)
	w := &writer{mapServer: s, twin: newTwin(), rand: rand.New(rand.NewPCG(1, 2))}
	for i := range crowd {
		w.put(t, fmt.Sprintf("m-%03d", i), 5000, false)
	}
	const noisy, noise = "a-noise", 70 << 10 // a row by itself
	w.put(t, noisy, noise, true)
	waitRevision(t, s.Cache, w.twin.all[len(w.twin.all)-1].rev)

	ctx, cancel := context.WithTimeout(t.Context(), 5*patience)
	defer cancel()
	// The first failure ends all: it has others wait for what does not come.
	fail := func(what string, r reader, err error) {
		if err != nil && ctx.Err() == nil {
			t.Errorf("%s: %s: %v", what, r, err)
			cancel()
		}
	}
	halfWritten, written := make(chan struct{}), make(chan struct{})
	var watches, seen, lists sync.WaitGroup
	watchAll := func(readers []reader) {
		var begun sync.WaitGroup
		for _, r := range readers {
			begun.Add(1)
			seen.Add(1)
			watches.Go(func() {
				fail("a watch", r, r.follow(ctx, w.twin, sync.OnceFunc(begun.Done), sync.OnceFunc(seen.Done)))
			})
		}
		begun.Wait()
	}
	watchAll(readers(t, server, written, []string{inJSON, inProtobuf, inTable}, []pace{eager, slow, leaving}))
	for _, r := range readers(t, server, written, []string{inJSON, inProtobuf}, []pace{eager, slow, leaving}) {
		lists.Go(func() {
			fail("a list", r, r.list(ctx, w.twin, ""))
			<-halfWritten // and what has been shared is no more what there is
			fail("a list", r, r.list(ctx, w.twin, "resourceVersion=0"))
			fail("a list", r, r.list(ctx, w.twin, ""))
			<-written
			fail("a list", r, r.list(ctx, w.twin, ""))
		})
	}
	var largest int64
	for i := range writes {
		name := fmt.Sprintf("m-%03d", w.rand.IntN(crowd))
		switch {
		case i%40 == 20:
			w.put(t, noisy, noise, true)
		case i%7 == 3:
			w.remove(t, name)
			w.put(t, name, 4000+w.rand.IntN(3000), false)
		default:
			w.put(t, name, 4000+w.rand.IntN(3000), false)
		}
		if i == writes/2 {
			close(halfWritten)
			watchAll(readers(t, server, written, []string{inJSON, inProtobuf}, []pace{eager}))
		}
		largest = max(largest, s.booked.Bytes(ledger.Compressed))
	}
	w.put(t, lastName, 2000, false)
	w.twin.close()
	close(written)
	lists.Wait()
	seen.Wait()
	s.Stop() // ends the watches
	watches.Wait()
	server.Close()

	if ctx.Err() != nil {
		t.Fatal("some have ended early:", ctx.Err())
	}
	if largest == 0 {
		t.Error("nothing was ever shared")
	}
	if n := s.booked.Bytes(ledger.Compressed); n < 0 || n > tight {
		t.Errorf("%d bytes of what is compressed are kept, more than the budget", n)
	}
	if n := ledger.Process.Bytes(ledger.Streams) - before; n != 0 {
		t.Errorf("%d bytes of streams are booked, and there are none", n)
	}
}
