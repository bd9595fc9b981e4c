// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package lists

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"k8s.io/apimachinery/pkg/runtime/serializer/cbor/direct"

	"github.com/weir-project/weir/test/servers"
)

// combination is one line of the table: a request, and what is to be done with it.
type combination struct {
	servers.Request
	// pages says to go on to the end by the continue tokens that come.
	pages bool
}

func (c combination) String() string {
	var b strings.Builder
	if c.Method != "" {
		b.WriteString(c.Method + " ")
	}
	b.WriteString(c.Path)
	for _, name := range slices.Sorted(maps.Keys(c.Header)) {
		fmt.Fprintf(&b, " %s:%q", name, c.Header[name])
	}
	if c.HTTP1 {
		b.WriteString(" HTTP/1.1")
	}
	if c.pages {
		b.WriteString(" all pages")
	}
	return b.String()
}

// tries is how often a request is repeated where somebody has written meanwhile.
const tries = 5

// difference puts a request to both servers and tells how the answers differ: "" if
// they do not. Answers count if nothing was written between the first and the last
// byte, wherever that may have been: revisions are of the whole etcd.
func (p *pair) difference(t testing.TB, c combination) string {
	for range tries {
		before := p.revision(t)
		diff := p.compare(t, c)
		if diff == "" || p.revision(t) == before {
			return diff
		}
		path, _, _ := strings.Cut(c.Path, "?")
		p.refresh(t, path)
	}
	return fmt.Sprintf("something was written during each of %d tries", tries)
}

// token finds a continue token, in every media type.
var token = regexp.MustCompile(`eyJ2Ijoi[\w-]+`)

func (p *pair) compare(t testing.TB, c combination) string {
	request := c.Request
	for page := 1; ; page++ {
		ctx, cancel := context.WithTimeout(context.Background(), servers.Patience)
		stock, stockErr := p.stock.Answer(ctx, request)
		weir, weirErr := p.weir.Answer(ctx, request)
		cancel()
		if stockErr != nil || weirErr != nil {
			return fmt.Sprintf("weir: %v\nstock: %v", weirErr, stockErr)
		}
		diff := compareAnswers(c, stock, weir)
		if page > 1 && diff != "" {
			diff = fmt.Sprintf("page %d: %s", page, diff)
		}
		next := token.Find(stock.Body)
		if diff != "" || !c.pages || next == nil {
			return diff
		}
		if page == 1000 {
			return "there is no end to the pages"
		}
		base, query, _ := strings.Cut(c.Path, "?")
		var keep []string
		for part := range strings.SplitSeq(query, "&") {
			// Upstream refuses a revision beside a token, and takes the first of two tokens.
			if !strings.HasPrefix(part, "resourceVersion") && !strings.HasPrefix(part, "continue=") {
				keep = append(keep, part)
			}
		}
		request.Path = base + "?" + strings.Join(append(keep, "continue="+string(next)), "&")
	}
}

// different are the headers that may be: when, which request, and how many bytes that
// are compared themselves.
var different = []string{"Date", "Audit-Id", "Content-Length"}

func compareAnswers(c combination, stock, weir servers.Response) string {
	if weir.Status != stock.Status {
		return fmt.Sprintf("status %d, stock %d\nweir:  %.300q\nstock: %.300q", weir.Status, stock.Status, weir.Body, stock.Body)
	}
	a, b := stock.Header.Clone(), weir.Header.Clone()
	for _, name := range different {
		a.Del(name)
		b.Del(name)
	}
	if diff := cmp.Diff(a, b); diff != "" {
		return fmt.Sprintf("status %d, headers differ (-stock +weir):\n%s", stock.Status, diff)
	}
	want, err := inflate(stock)
	if err != nil {
		return "stock: " + err.Error()
	}
	got, err := inflate(weir)
	if err != nil {
		return err.Error()
	}
	if strings.Contains(stock.Header.Get("Content-Type"), "cbor") {
		return compareCBOR(want, got)
	}
	if strings.Contains(fmt.Sprint(c.Header["Accept"]), "as=Table") {
		want, got = ages.ReplaceAll(want, []byte("${1}AGE")), ages.ReplaceAll(got, []byte("${1}AGE"))
	}
	return compareBytes(want, got)
}

// ages finds the cells of Tables that tell how old something is, in JSON and in YAML.
var ages = regexp.MustCompile(`(?m)"(?:(?:\d+[smhdy])+|<invalid>)"|^( *- )(?:(?:\d+[smhdy])+|<invalid>)$`)

// inflate returns the body as it was before it was compressed, into one gzip member.
func inflate(r servers.Response) ([]byte, error) {
	if r.Header.Get("Content-Encoding") != "gzip" {
		return r.Body, nil
	}
	return io.ReadAll(servers.NewMember(bytes.NewReader(r.Body)))
}

func compareBytes(want, got []byte) string {
	if bytes.Equal(want, got) {
		return ""
	}
	i := 0
	for i < min(len(got), len(want)) && got[i] == want[i] {
		i++
	}
	from := max(0, i-100)
	return fmt.Sprintf("%d bytes, stock %d; the first that differs is %d:\nweir:  %.260q\nstock: %.260q",
		len(got), len(want), i, got[from:], want[from:])
}

func compareCBOR(want, got []byte) string {
	var a, b any
	if err := direct.Unmarshal(want, &a); err != nil {
		return fmt.Sprintf("stock's is no CBOR: %v: %.100q", err, want)
	}
	if err := direct.Unmarshal(got, &b); err != nil {
		return fmt.Sprintf("no CBOR: %v: %.100q", err, got)
	}
	age := cmp.FilterPath(func(path cmp.Path) bool { return strings.Contains(path.GoString(), `["cells"]`) },
		cmp.Comparer(func(a, b string) bool { return a == b || cell.MatchString(a) && cell.MatchString(b) }))
	if diff := cmp.Diff(a, b, age); diff != "" {
		return fmt.Sprintf("decoded, they differ (-stock +weir):\n%.1500s", diff)
	}
	return ""
}

// cell is a whole cell that tells how old something is.
var cell = regexp.MustCompile(`^(?:(\d+[smhdy])+|<invalid>)$`)

// workers is how many requests are under way at once.
const workers = 4

// compareAll compares the answers to each of many requests.
func (p *pair) compareAll(t *testing.T, all []combination, workers int) {
	t.Helper()
	type result struct {
		c    combination
		diff string
	}
	work, results := make(chan combination), make(chan result)
	for range workers {
		go func() {
			for c := range work {
				results <- result{c, p.difference(t, c)}
			}
		}()
	}
	go func() {
		defer close(work)
		for _, c := range all {
			work <- c
		}
	}()
	wrong := 0
	for range all {
		r := <-results
		switch {
		case r.diff == "":
			continue
		case wrong < inFull:
			t.Errorf("%s\n%s", r.c, r.diff)
		default:
			t.Errorf("the same goes wrong, or something else: %s", r.c)
		}
		wrong++
	}
	if wrong > 0 {
		t.Errorf("%d of %d differ", wrong, len(all))
	}
}

// inFull is how many differences of a kind of requests are told in full.
const inFull = 5
