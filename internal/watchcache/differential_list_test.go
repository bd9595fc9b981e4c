// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package watchcache

import (
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/google/go-cmp/cmp"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/sharding"
	"k8s.io/apiserver/pkg/apis/example"
	"k8s.io/apiserver/pkg/storage"
)

// randomScope returns a key to read under, and what to select there.
func (d *differential) randomScope() (key string, recursive bool, pred storage.SelectionPredicate) {
	pred = storage.SelectionPredicate{
		Label:       labels.Everything(),
		Field:       fields.Everything(),
		GetAttrs:    podAttrs,
		IndexFields: []string{"spec.nodeName"},
	}
	key, recursive = podPrefix, true
	switch d.rand.Intn(5) {
	case 0:
		key = podPrefix + d.oneOf(namespaces)
	case 1:
		name := fmt.Sprintf("p%d", d.rand.Intn(12))
		key, recursive = podPrefix+d.oneOf(namespaces)+"/"+name, false
		pred.Field = fields.OneTermEqualSelector("metadata.name", name)
		return key, recursive, pred
	}
	switch d.rand.Intn(3) {
	case 0:
		pred.Label = labels.SelectorFromSet(labels.Set{"app": d.oneOf(apps[1:])})
	case 1:
		pred.Label, _ = labels.Parse("app notin (web)")
	}
	switch d.rand.Intn(4) {
	case 0:
		pred.Field = fields.OneTermEqualSelector("spec.nodeName", d.oneOf(nodes))
	case 1:
		pred.Field = fields.OneTermEqualSelector("status.phase", d.oneOf(phases))
	case 2:
		pred.Field = fields.AndSelectors(
			fields.OneTermEqualSelector("spec.nodeName", d.oneOf(nodes)),
			fields.OneTermNotEqualSelector("status.phase", d.oneOf(phases)))
	}
	if d.sharded && d.rand.Intn(3) > 0 {
		pred.ShardSelector = d.randomShard(key)
	}
	return key, recursive, pred
}

// randomShard selects a half or a quarter of the objects by their UID, or those of
// some namespaces.
func (d *differential) randomShard(key string) sharding.Selector {
	by, parts := "object.metadata.uid", uint64(2+2*d.rand.Intn(2))
	if key == podPrefix && d.rand.Intn(3) == 0 {
		by = "object.metadata.namespace"
	}
	width := uint64(1) << 63 / (parts / 2)
	for {
		n := uint64(d.rand.Int63n(int64(parts)))
		r := sharding.ShardRangeRequirement{Key: by, Start: fmt.Sprintf("0x%016x", n*width), End: "0x10000000000000000"}
		if n+1 < parts {
			r.End = fmt.Sprintf("0x%016x", (n+1)*width)
		}
		selector := sharding.NewSelector(r)
		// Every watch has to be able to tell of a last event.
		for _, ns := range namespaces {
			pod := &example.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: ns}}
			if ok, err := selector.Matches(pod); by == "object.metadata.uid" || (err == nil && ok) {
				return selector
			}
		}
	}
}

// randomRevision is one of a write, before a write, or of none that was.
func (d *differential) randomRevision() uint64 {
	switch d.rand.Intn(6) {
	case 0:
		return d.last
	case 1:
		return 1 + uint64(d.rand.Int63n(int64(d.last)))
	default:
		return d.revisions[d.rand.Intn(len(d.revisions))] - uint64(d.rand.Intn(2))
	}
}

// list compares one random list, and the pages that follow it.
func (d *differential) list() {
	d.t.Helper()
	key, recursive, pred := d.randomScope()
	opts := storage.ListOptions{Recursive: recursive, Predicate: pred}
	if d.rand.Intn(2) == 0 {
		opts.Predicate.Limit = int64(1 + d.rand.Intn(8))
	}
	switch d.rand.Intn(6) {
	case 0:
		opts.ResourceVersion = "0"
	case 1:
		opts.ResourceVersion, opts.ResourceVersionMatch = "0", metav1.ResourceVersionMatchNotOlderThan
	case 2:
		opts.ResourceVersion = fmt.Sprint(d.randomRevision())
	case 3:
		opts.ResourceVersion, opts.ResourceVersionMatch = fmt.Sprint(d.randomRevision()), metav1.ResourceVersionMatchNotOlderThan
	case 4:
		opts.ResourceVersion, opts.ResourceVersionMatch = fmt.Sprint(d.randomRevision()), metav1.ResourceVersionMatchExact
	}
	for page := 0; ; page++ {
		token := d.compareList(key, opts)
		if token == "" || page == 20 {
			return
		}
		d.pages++
		opts.Predicate.Continue = token
		opts.ResourceVersion, opts.ResourceVersionMatch = "", ""
		if d.rand.Intn(3) == 0 {
			// What the next page is made of has changed meanwhile.
			d.write()
			d.settle()
		}
	}
}

// compareList puts one list to both and returns the token to go on with.
func (d *differential) compareList(key string, opts storage.ListOptions) (token string) {
	d.t.Helper()
	d.lists++
	var stock, weir example.PodList
	var stockErr error
	var both sync.WaitGroup
	both.Go(func() { stockErr = d.stock.GetList(d.t.Context(), key, opts, &stock) })
	weirErr := d.weir.GetList(d.t.Context(), key, opts, &weir)
	both.Wait()
	asked := fmt.Sprintf("list of %s (recursive %v) with resourceVersion %q match %q limit %d continue %s labels %q fields %q shard %v",
		key, opts.Recursive, opts.ResourceVersion, opts.ResourceVersionMatch, opts.Predicate.Limit, d.readToken(opts.Predicate.Continue),
		opts.Predicate.Label, opts.Predicate.Field, opts.Predicate.ShardSelector)

	if got, want := kindOf(weirErr), kindOf(stockErr); got != want {
		d.errorf("%s: error %s (%v), stock %s (%v)", asked, got, weirErr, want, stockErr)
		return ""
	}
	if stockErr != nil {
		d.listErrors++
		return ""
	}
	if diff := cmp.Diff(stock.Items, weir.Items); diff != "" {
		d.errorf("%s: items differ (-stock +weir):\n%s", asked, diff)
	}
	if diff := cmp.Diff(stock.ShardInfo, weir.ShardInfo); diff != "" {
		d.errorf("%s: shardInfo differs (-stock +weir):\n%s", asked, diff)
	}
	if diff := cmp.Diff(stock.RemainingItemCount, weir.RemainingItemCount); diff != "" {
		d.errorf("%s: remainingItemCount differs (-stock +weir):\n%s", asked, diff)
	}
	// How far a cache knows that nothing happened may differ where any state will do.
	if stock.ResourceVersion != weir.ResourceVersion {
		any := opts.ResourceVersion == "0" || opts.ResourceVersionMatch == metav1.ResourceVersionMatchNotOlderThan ||
			(opts.ResourceVersion != "" && opts.ResourceVersionMatch == "" && opts.Predicate.Limit == 0) ||
			(opts.ResourceVersion != "" && !opts.Recursive)
		rev := revision(d.t, weir.ResourceVersion)
		if !any || rev < revision(d.t, orZero(opts.ResourceVersion)) || rev < d.last {
			d.errorf("%s: resourceVersion %s, stock %s, last write at %d", asked, weir.ResourceVersion, stock.ResourceVersion, d.last)
		}
	}
	stockToken, weirToken := d.readToken(stock.Continue), d.readToken(weir.Continue)
	if strings.ReplaceAll(stockToken, "@"+stock.ResourceVersion, "") != strings.ReplaceAll(weirToken, "@"+weir.ResourceVersion, "") {
		d.errorf("%s: continue %s, stock %s", asked, weirToken, stockToken)
	}
	return stock.Continue
}

func orZero(resourceVersion string) string {
	if resourceVersion == "" {
		return "0"
	}
	return resourceVersion
}

// readToken makes a continue token readable.
func (d *differential) readToken(token string) string {
	if token == "" {
		return "none"
	}
	from, rev, err := storage.DecodeContinue(token, podPrefix)
	if err != nil {
		return fmt.Sprintf("unreadable (%v)", err)
	}
	return fmt.Sprintf("%q@%d", from, rev)
}

// kindOf names an error as a client sees it.
func kindOf(err error) string {
	if err == nil {
		return "none"
	}
	var status apierrors.APIStatus
	if errors.As(err, &status) {
		s := status.Status()
		kind := fmt.Sprintf("%s/%d", s.Reason, s.Code)
		if s.Details != nil && s.Details.RetryAfterSeconds > 0 {
			kind += "/retry"
		}
		if storage.IsTooLargeResourceVersion(err) {
			kind += "/too large"
		}
		return kind
	}
	var storageError *storage.StorageError
	if errors.As(err, &storageError) {
		return fmt.Sprintf("storage/%d", storageError.Code)
	}
	return fmt.Sprintf("%T", err)
}
