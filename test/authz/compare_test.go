// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package authz

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/weir-project/weir/test/servers"
)

// different are the headers that may be: when, which request, and how many bytes that are compared themselves.
var different = []string{"Date", "Audit-Id", "Content-Length"}

// ages finds the cells of Tables that tell how old something is, in JSON and in YAML.
var ages = regexp.MustCompile(`(?m)"(?:(?:\d+[smhdy])+|<invalid>)"|^( *- )(?:(?:\d+[smhdy])+|<invalid>)$`)

// token finds a continue token, in every media type.
var token = regexp.MustCompile(`eyJ2Ijoi[\w-]+`)

// outcome is what came of a request.
type outcome struct {
	*request
	// status is weir's.
	status int
	// body is stock's, unpacked; for a watch, all events.
	body []byte
	// events is their number.
	events int
	// items says whether something was in it.
	items bool
	wrong string
}

func inflate(r servers.Response) ([]byte, error) {
	if r.Header.Get("Content-Encoding") != "gzip" {
		return r.Body, nil
	}
	return io.ReadAll(servers.NewMember(bytes.NewReader(r.Body)))
}

// differHeaders tells how the headers of two answers differ; "" if they do not.
func differHeaders(stock, weir http.Header) string {
	a, b := stock.Clone(), weir.Clone()
	for _, name := range different {
		a.Del(name)
		b.Del(name)
	}
	if diff := cmp.Diff(a, b); diff != "" {
		return "headers differ (-stock +weir):\n" + diff
	}
	return ""
}

// differBytes tells how two bodies differ; "" if they do not.
func differBytes(stock, weir []byte) string {
	if bytes.Equal(stock, weir) {
		return ""
	}
	i := 0
	for i < min(len(weir), len(stock)) && weir[i] == stock[i] {
		i++
	}
	from := max(0, i-100)
	return fmt.Sprintf("%d bytes, stock %d; the first that differs is %d:\nweir:  %.260q\nstock: %.260q",
		len(weir), len(stock), i, weir[from:], stock[from:])
}

// ask puts a list or get to both servers, and holds the answers against each other and against what may be seen.
func (p *pair) ask(t *testing.T, r *request) *outcome {
	o := &outcome{request: r}
	stock, stockErr := p.stock.Answer(t.Context(), r.http())
	weir, weirErr := p.weir.Answer(t.Context(), r.http())
	if stockErr != nil || weirErr != nil {
		o.wrong = fmt.Sprintf("weir: %v\nstock: %v", weirErr, stockErr)
		return o
	}
	o.status = weir.Status
	want, stockErr := inflate(stock)
	got, weirErr := inflate(weir)
	if stockErr != nil || weirErr != nil {
		o.wrong = fmt.Sprintf("unpacked: weir: %v\nstock: %v", weirErr, stockErr)
		return o
	}
	o.body = want
	o.judge(p.world, got)
	if weir.Status != stock.Status {
		o.wrong = fmt.Sprintf("status %d, stock %d\nweir:  %.300q\nstock: %.300q\n%s", weir.Status, stock.Status, got, want, o.wrong)
		return o
	}
	if r.form.table {
		if r.odd != nil { // it may be a watch
			want, got = withoutColumns(want), withoutColumns(got)
		}
		want, got = ages.ReplaceAll(want, []byte("${1}AGE")), ages.ReplaceAll(got, []byte("${1}AGE"))
	}
	if o.wrong == "" {
		o.wrong = differBytes(want, got)
	}
	if o.wrong == "" {
		o.wrong = differHeaders(stock.Header, weir.Header)
	}
	return o
}

// judge holds what weir has answered against the test's own opinion of who may see what.
func (o *outcome) judge(w *world, answer []byte) {
	seen, deep := ids(answer, canaries), secretIDs(answer)
	o.items = len(seen)+len(deep) > 0
	if o.odd != nil {
		return // what it asks for is not known
	}
	refused := o.status == http.StatusForbidden || o.status == http.StatusUnauthorized
	switch {
	case o.allowed && refused:
		o.wrong = fmt.Sprintf("is refused, but should be allowed: %.400q", answer)
	case !o.allowed && !refused:
		o.wrong = fmt.Sprintf("is not allowed, but is answered %d: %.400q", o.status, answer)
	}
	for _, id := range seen {
		if s := w.states[id]; !o.allowed || !o.selects(s) {
			o.wrong += fmt.Sprintf("\nshows %s %s/%s as of write %d (labels %v, fields %v), which was not asked for or may not be seen",
				s.kind.name, s.namespace, s.name, id, s.labels, s.fields)
		}
	}
	// A client may take plain objects as well, and gets them of a subresource that has no Table.
	fallen := o.form.table && strings.HasSuffix(o.form.accept, ","+inJSON) && o.subresource != "" && !bytes.Contains(answer, []byte("Table"))
	for _, id := range deep {
		switch s := w.states[id]; {
		case s.kind != o.kind || o.namespace != "" && s.namespace != o.namespace || o.name != "" && s.name != o.name || !o.allowed:
			o.wrong += fmt.Sprintf("\nshows the content of %s %s/%s as of write %d", s.kind.name, s.namespace, s.name, id)
		case o.form.metadata && !(o.form.table && o.kind.shown) && !fallen:
			o.wrong += fmt.Sprintf("\nshows the content of %s %s/%s, where metadata alone may be", s.kind.name, s.namespace, s.name)
		}
	}
	if o.form.hidden && o.status == http.StatusOK && bytes.Contains(bytes.ReplaceAll(answer, []byte(temporary+"canary-"), nil), []byte("canary-")) {
		o.wrong += "\nshows metadata in a Table that is to have none"
	}
	o.wrong = strings.TrimSpace(o.wrong)
}

// workers is how many requests are under way at once.
const workers = 4

// askAll puts many requests to both servers while nothing is written.
func (p *pair) askAll(t *testing.T, all []*request) (out []*outcome) {
	t.Helper()
	at := p.revision(t)
	work, results := make(chan *request), make(chan *outcome)
	for range workers {
		go func() {
			for r := range work {
				results <- p.ask(t, r)
			}
		}()
	}
	go func() {
		defer close(work)
		for _, r := range all {
			work <- r
		}
	}()
	for range all {
		out = append(out, <-results)
	}
	for i, o := range out {
		// Revisions are of the whole etcd: if somebody has written meanwhile, answers may differ. An odd request may be a watch
		// of two seconds, which may have been too short.
		for try := 0; o.wrong != "" && try < 5 && (p.revision(t) != at || o.odd != nil && try == 0); try++ {
			at = p.settle(t)
			o = p.ask(t, o.request)
			out[i] = o
		}
	}
	return out
}
