// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package robustness

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/weir-project/weir/test/robustness/check"
	"github.com/weir-project/weir/test/robustness/history"
)

const (
	getters     = 3
	getsASecond = 10 // of each, at the full load
)

// gets reads one object after the other, at either server.
func (r *Run) gets(ctx context.Context, rnd *rand.Rand) {
	clients := r.clients(1)
	defer closeAll(clients)
	for range every(ctx, r.config.every(getsASecond)) {
		at, back, mode := rnd.IntN(weirs), r.config.ago(rnd)/4, rnd.IntN(6)
		k, f, version := anyKey(rnd), pick(rnd, formats), pick(rnd, versions)
		read := &history.Read{Key: k, Format: string(f.of(k.Resource)), Mode: history.Consistent}
		if k.Resource == widgets {
			read.Version = version
		}
		switch mode {
		case 0:
			read.Mode, read.Asked = history.NotOlderThan, r.known.Load()
		case 1:
			read.Mode, read.Asked = history.NotOlderThan, max(r.truth.RevisionAt(time.Now().Add(-back)), r.begin)
		case 2:
			read.Mode = history.Any
		}
		r.get(ctx, clients[0][at], r.servers[at], read)
	}
}

// get reads an object, and has what came judged. It reports whether something came.
func (r *Run) get(ctx context.Context, client *http.Client, s *server, read *history.Read) bool {
	ctx, cancel := context.WithTimeout(ctx, listPatience)
	defer cancel()
	q := url.Values{}
	switch read.Mode {
	case history.NotOlderThan:
		q.Set("resourceVersion", strconv.FormatInt(read.Asked, 10))
	case history.Any:
		q.Set("resourceVersion", "0")
	}
	f := format(read.Format)
	p := collection(read.Key.Resource, read.Version, read.Key.Namespace) + "/" + read.Key.Name + "?" + q.Encode()
	req, err := s.request(ctx, f, forOne, p)
	if err != nil {
		r.fail(err)
		return false
	}
	read.ID, read.Server, read.Known, read.Opened = r.id(), s.name, r.known.Load(), time.Now()
	resp, err := client.Do(req)
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(unzipped(resp))
	read.Closed = time.Now()
	if err != nil {
		return false
	}
	o, err := decode(body)
	if len(o.Rows) == 1 {
		o = o.Rows[0].shown(read.Key.Resource)
	}
	switch {
	case resp.StatusCode == http.StatusNotFound && o.Details.Name == read.Key.Name: // not the resource: the object
	case resp.StatusCode != http.StatusOK:
		r.refusals.note(fmt.Sprintf("GET %s %d", read.Mode, resp.StatusCode), body)
		return false
	default:
		if err == nil {
			read.Found, read.UID, read.Op = true, o.Metadata.UID, o.Metadata.Annotations[opMark]
			read.Digests = o.digests(read.Key.Resource, f)
			read.Revision, err = o.revision()
		}
		if err == nil {
			err = o.inVersion(history.Scope{Resource: read.Key.Resource, Version: read.Version}, f)
		}
		if err == nil && o.key(read.Key.Resource) != read.Key {
			err = fmt.Errorf("it is %v", o.key(read.Key.Resource))
		}
	}
	if err != nil {
		r.broken(fmt.Sprintf("read %d (%s, %s) of %v at %s", read.ID, read.Mode, f, read.Key, s.name), err)
		return false
	}
	r.told(read.Revision)
	r.reads <- read
	return true
}

// told notes that somebody has been told of a revision. No consistent read that begins later may be older.
func (r *Run) told(rev int64) {
	for known := r.known.Load(); rev > known && !r.known.CompareAndSwap(known, rev); known = r.known.Load() {
	}
}

// judgeReads judges reads until there are no more.
func (r *Run) judgeReads(ctx context.Context) {
	for read := range r.reads {
		r.stats.reads.Add(1)
		l := line{Read: read}
		var known bool
		if read.Reached, known = r.etcdAfter(ctx, read.Closed); known && r.reach(ctx, max(read.Reached, read.Revision, read.Known, read.Asked)) {
			l.Violations = append(check.Read(r.truth, read), r.objects.Read(*read)...)
			r.found.add(l.Violations)
		}
		r.record.write(l)
	}
}
