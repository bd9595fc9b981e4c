// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package authz

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/weir-project/weir/test/servers"
)

// columns finds those of a Table: stock repeats them in later events, or not, as it comes.
var columns = regexp.MustCompile(`"columnDefinitions":\[\{.*?\}\],"rows"`)

func withoutColumns(b []byte) []byte {
	return columns.ReplaceAll(b, []byte(`"columnDefinitions":null,"rows"`))
}

// stream is a watch at one server.
type stream struct {
	status int
	header http.Header
	events [][]byte
	// marked says that the marker has come; otherwise the stream has ended before, or failed.
	marked bool
	err    error
}

// markers are what ends the comparison of watches: for each a state that it selects, written when all else is. Watches of one
// selection share one.
type markers struct {
	byWatch map[string]*state
	order   []*state
}

// of returns the marker of a watch. It has its id already.
func (m *markers) of(w *world, r *request) *state {
	key := fmt.Sprint(r.kind.name, "|", r.namespace, "|", r.name, "|", r.labels, "|", r.field.text)
	if found := m.byWatch[key]; found != nil {
		return found
	}
	s := &state{object: object{r.kind, r.namespace, r.name}, labels: map[string]string{}, fields: map[string]string{}, refers: map[string]string{}}
	for _, l := range labelSelectors {
		if l.text == r.labels {
			for k, v := range l.witness {
				s.labels[k] = v
			}
		}
	}
	for k, v := range r.field.fields {
		s.fields[k] = v
	}
	if field, ok := has[r.kind.name]; ok && s.fields[field] == "" && field != nodeName {
		s.fields[field] = values[field][0]
	}
	if _, namespace, ok := strings.Cut(r.field.text, "metadata.namespace="); ok {
		s.namespace, _, _ = strings.Cut(namespace, ",")
	} else if r.kind.namespaces != nil && s.namespace == "" {
		s.namespace = r.kind.namespaces[0]
	}
	if s.name == "" {
		s.name = r.field.name
	}
	if s.kind == pods {
		w.refer(s)
	}
	w.remember(s)
	if s.name == "" && r.kind.name == "namespaces" { // one more of them would stay
		s.name = r.kind.names[len(r.kind.names)-1]
		if strings.Contains(r.field.text, s.name) {
			s.name = r.kind.names[0]
		}
	}
	if s.name == "" {
		s.name = temporary + canary(s.id)
	}
	m.byWatch[key] = s
	m.order = append(m.order, s)
	return s
}

// temporary begins the names of markers that are no other objects, and are deleted again. The rest is what is looked for, so
// that Tables show it that show nothing but names.
const temporary = "marker-"

// next reads one event.
func next(in *bufio.Reader, contentType string) ([]byte, error) {
	if !strings.Contains(contentType, "protobuf") {
		return in.ReadBytes('\n')
	}
	var size [4]byte
	if _, err := io.ReadFull(in, size[:]); err != nil {
		return nil, err
	}
	event := make([]byte, binary.BigEndian.Uint32(size[:]))
	_, err := io.ReadFull(in, event)
	return event, err
}

// follow opens a watch and reads it up to its marker, or whole if it is none.
func follow(ctx context.Context, s *servers.Server, r *request, marker string, opened func()) (out stream) {
	begun := sync.OnceFunc(opened)
	defer begun()
	resp, err := s.Open(ctx, r.http())
	if err != nil {
		return stream{err: err}
	}
	// Where no cache answers, the state that a watch begins with is read after its headers are sent.
	initial := strings.Contains(r.path(), "sendInitialEvents=true")
	if !initial {
		begun()
	}
	defer func() { _ = resp.Body.Close() }()
	out = stream{status: resp.StatusCode, header: resp.Header}
	body := bufio.NewReader(resp.Body)
	switch {
	case resp.Header.Get("Content-Encoding") != "gzip":
	case s.Name == servers.Weir:
		body = bufio.NewReader(servers.NewMember(body))
	default:
		z, err := gzip.NewReader(body)
		if err != nil {
			out.err = err
			return out
		}
		body = bufio.NewReader(z)
	}
	if resp.StatusCode != http.StatusOK {
		all, err := io.ReadAll(body)
		out.events, out.err = [][]byte{all}, err
		return out
	}
	for bookmarked := false; ; {
		event, err := next(body, resp.Header.Get("Content-Type"))
		bookmark := bytes.Contains(event, []byte("BOOKMARK"))
		// The first ends the initial events. Others come as time passes, which is different at each server.
		if len(event) > 0 && (!bookmark || !bookmarked) {
			out.events = append(out.events, event)
		}
		if err == io.EOF {
			return out
		}
		if err != nil {
			out.err = err
			return out
		}
		if bookmark {
			bookmarked = true
			begun()
		}
		if bytes.Contains(event, []byte(marker)) {
			out.marked = true
			return out
		}
	}
}

// watchAll opens watches at both servers, lets others write meanwhile, and holds the streams against each other and
// against what may be seen.
func (p *pair) watchAll(t *testing.T, all []*request, meanwhile func()) (out []*outcome) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), servers.Patience)
	defer cancel()
	m := &markers{byWatch: map[string]*state{}}
	streams := make([][2]stream, len(all))
	var opened, ended sync.WaitGroup
	for i, r := range all {
		mark := canary(m.of(p.world, r).id)
		for j, s := range p.both() {
			opened.Add(1)
			ended.Go(func() { streams[i][j] = follow(ctx, s, r, mark, opened.Done) })
		}
	}
	opened.Wait()
	meanwhile()
	for _, s := range m.order {
		p.world.put(t, s)
	}
	ended.Wait()
	for _, s := range m.order {
		if strings.HasPrefix(s.name, temporary) {
			p.world.remove(t, s.object)
		}
	}
	for i, r := range all {
		o := &outcome{request: r}
		o.hold(p.world, streams[i][0], streams[i][1])
		out = append(out, o)
	}
	return out
}

// hold compares a watch's two streams.
func (o *outcome) hold(w *world, stock, weir stream) {
	o.status, o.events = weir.status, len(weir.events)
	if stock.err != nil || weir.err != nil {
		o.wrong = fmt.Sprintf("weir after %d events: %v\nstock after %d events: %v", len(weir.events), weir.err, len(stock.events), stock.err)
	}
	o.body = bytes.Join(stock.events, nil)
	before := o.wrong
	o.judge(w, bytes.Join(weir.events, nil))
	o.wrong = strings.TrimSpace(before + "\n" + o.wrong)
	if o.wrong != "" {
		return
	}
	if weir.status != stock.status || weir.marked != stock.marked {
		o.wrong = fmt.Sprintf("status %d, stock %d; comes to the marker: %v, stock %v\nweir:  %.500q\nstock: %.500q",
			weir.status, stock.status, weir.marked, stock.marked, weir.events, stock.events)
		return
	}
	for i, want := range stock.events {
		if i == len(weir.events) {
			break
		}
		got := weir.events[i]
		if o.form.table {
			for _, b := range []*[]byte{&want, &got} {
				*b = withoutColumns(ages.ReplaceAll(*b, []byte("AGE")))
			}
		}
		if diff := differBytes(want, got); diff != "" {
			o.wrong = fmt.Sprintf("event %d of %d: %s", i+1, len(stock.events), diff)
			return
		}
	}
	if len(weir.events) != len(stock.events) {
		o.wrong = fmt.Sprintf("%d events, stock %d:\nweir:  %.500q\nstock: %.500q", len(weir.events), len(stock.events), weir.events, stock.events)
		return
	}
	o.wrong = differHeaders(stock.header, weir.header)
}
