// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package watchcache

import (
	"context"
	"slices"
	"testing"

	"k8s.io/apiserver/pkg/features"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/etcd3"
	etcdfeature "k8s.io/apiserver/pkg/storage/feature"
	storagetesting "k8s.io/apiserver/pkg/storage/testing"
	"k8s.io/apiserver/pkg/storage/value/encrypt/identity"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/component-base/featuregate"
	featuregatetesting "k8s.io/component-base/featuregate/testing"
)

// gates are feature gates and what they are set to.
type gates map[featuregate.Feature]bool

func (g gates) set(t *testing.T) {
	for gate, on := range g {
		featuregatetesting.SetFeatureGateDuringTest(t, utilfeature.DefaultFeatureGate, gate, on)
	}
}

var unsafeDeletion = gates{features.AllowUnsafeMalformedObjectDeletion: true}

// conformance is one of upstream's tests. Each has a cache and an etcd of its own.
type conformance struct {
	name string
	run  func(context.Context, *testing.T)
	// gates are set for this test, in addition to those of the whole run.
	gates gates
}

// plain are the tests that want nothing but a storage.Interface.
var plain = map[string]func(context.Context, *testing.T, storage.Interface){
	"CreateWithTTL":                              storagetesting.RunTestCreateWithTTL,
	"CreateWithKeyExist":                         storagetesting.RunTestCreateWithKeyExist,
	"Get":                                        storagetesting.RunTestGet,
	"UnconditionalDelete":                        storagetesting.RunTestUnconditionalDelete,
	"ConditionalDelete":                          storagetesting.RunTestConditionalDelete,
	"DeleteWithSuggestion":                       storagetesting.RunTestDeleteWithSuggestion,
	"DeleteWithSuggestionAndConflict":            storagetesting.RunTestDeleteWithSuggestionAndConflict,
	"DeleteWithConflict":                         storagetesting.RunTestDeleteWithConflict,
	"DeleteWithSuggestionOfDeletedObject":        storagetesting.RunTestDeleteWithSuggestionOfDeletedObject,
	"ValidateDeletionWithSuggestion":             storagetesting.RunTestValidateDeletionWithSuggestion,
	"ValidateDeletionWithOnlySuggestionValid":    storagetesting.RunTestValidateDeletionWithOnlySuggestionValid,
	"PreconditionalDeleteWithSuggestion":         storagetesting.RunTestPreconditionalDeleteWithSuggestion,
	"PreconditionalDeleteWithOnlySuggestionPass": storagetesting.RunTestPreconditionalDeleteWithOnlySuggestionPass,
	"GetListRecursivePrefix":                     storagetesting.RunTestGetListRecursivePrefix,
	"GuaranteedUpdateWithTTL":                    storagetesting.RunTestGuaranteedUpdateWithTTL,
	"GuaranteedUpdateWithConflict":               storagetesting.RunTestGuaranteedUpdateWithConflict,
	"GuaranteedUpdateWithSuggestionAndConflict":  storagetesting.RunTestGuaranteedUpdateWithSuggestionAndConflict,
	"ListPaging":                                 storagetesting.RunTestListPaging,
	"KeySchema":                                  storagetesting.RunTestKeySchema,
	"Watch":                                      storagetesting.RunTestWatch,
	"DeleteTriggerWatch":                         storagetesting.RunTestDeleteTriggerWatch,
	"WatchFromNonZero":                           storagetesting.RunTestWatchFromNonZero,
	"DelayedWatchDelivery":                       storagetesting.RunTestDelayedWatchDelivery,
	"WatchContextCancel":                         storagetesting.RunTestWatchContextCancel,
	"WatcherTimeout":                             storagetesting.RunTestWatcherTimeout,
	"WatchDeleteEventObjectHaveLatestRV":         storagetesting.RunTestWatchDeleteEventObjectHaveLatestRV,
	"WatchInitializationSignal":                  storagetesting.RunTestWatchInitializationSignal,
	"SendInitialEventsBackwardCompatibility":     storagetesting.RunSendInitialEventsBackwardCompatibility,
}

// indexed are those that upstream runs with the indexes of Pods.
var withIndex = map[string]func(context.Context, *testing.T, storage.Interface){
	"NamespaceScopedList":  storagetesting.RunTestNamespaceScopedList,
	"NamespaceScopedWatch": storagetesting.RunTestNamespaceScopedWatch,
}

// settled are those that need caughtUp.
var settled = map[string]func(context.Context, *testing.T, storage.Interface){
	"WatchSemantics":                     storagetesting.RunWatchSemantics,
	"WatchSemanticInitialEventsExtended": storagetesting.RunWatchSemanticInitialEventsExtended,
	"WatchListMatchSingle":               storagetesting.RunWatchListMatchSingle,
}

// special are those that want more than a storage.Interface.
var special = []conformance{
	{name: "Create", run: func(ctx context.Context, t *testing.T) {
		s := newSubject(t)
		storagetesting.RunTestCreate(ctx, t, s, s.storedAs(""))
	}},
	{name: "List", run: func(ctx context.Context, t *testing.T) {
		s := newSubject(t)
		storagetesting.RunTestList(ctx, t, s, s.compact, true, s.recorder())
	}},
	{name: "ConsistentList", run: func(ctx context.Context, t *testing.T) {
		s := newSubject(t)
		storagetesting.RunTestConsistentList(ctx, t, s, s.increase, true, true,
			utilfeature.DefaultFeatureGate.Enabled(features.ListFromCacheSnapshot))
	}},
	{name: "GetListNonRecursive", run: func(ctx context.Context, t *testing.T) {
		s := newSubject(t)
		storagetesting.RunTestGetListNonRecursive(ctx, t, s.increase, s)
	}},
	{name: "ListContinuation", run: func(ctx context.Context, t *testing.T) {
		storagetesting.RunTestListContinuation(ctx, t, newSubject(t), uncounted)
	}},
	{name: "ListPaginationRareObject", run: func(ctx context.Context, t *testing.T) {
		storagetesting.RunTestListPaginationRareObject(ctx, t, newSubject(t), uncounted)
	}},
	{name: "ListContinuationWithFilter", run: func(ctx context.Context, t *testing.T) {
		storagetesting.RunTestListContinuationWithFilter(ctx, t, newSubject(t), uncounted)
	}},
	{name: "ListInconsistentContinuation", run: func(ctx context.Context, t *testing.T) {
		s := newSubject(t)
		storagetesting.RunTestListInconsistentContinuation(ctx, t, paged{s}, s.compact)
	}},
	{name: "ListResourceVersionMatch", run: func(ctx context.Context, t *testing.T) {
		storagetesting.RunTestListResourceVersionMatch(ctx, t, newPrefixed(t))
	}},
	{name: "GuaranteedUpdate", run: func(ctx context.Context, t *testing.T) {
		s := newPrefixed(t)
		storagetesting.RunTestGuaranteedUpdate(ctx, t, s, s.storedAs(valuePrefix))
	}},
	{name: "GuaranteedUpdateChecksStoredData", run: func(ctx context.Context, t *testing.T) {
		storagetesting.RunTestGuaranteedUpdateChecksStoredData(ctx, t, newPrefixed(t))
	}},
	{name: "Stats", gates: gates{features.SizeBasedListCostEstimate: true}, run: func(ctx context.Context, t *testing.T) {
		storagetesting.RunTestStats(ctx, t, newSubject(t), protobufCodec, identity.NewEncryptCheckTransformer(), true)
	}},
	{name: "StatsWithoutSizes", gates: gates{features.SizeBasedListCostEstimate: false}, run: func(ctx context.Context, t *testing.T) {
		storagetesting.RunTestStats(ctx, t, newSubject(t), protobufCodec, identity.NewEncryptCheckTransformer(), false)
	}},
	{name: "WatchFromZero", run: func(ctx context.Context, t *testing.T) {
		s := newSubject(t)
		storagetesting.RunTestWatchFromZero(ctx, t, s, s.compactHistory)
	}},
	{name: "ClusterScopedWatch", run: func(ctx context.Context, t *testing.T) {
		storagetesting.RunTestClusterScopedWatch(ctx, t, newSubject(t, withIndexes, withClusterScope))
	}},
	{name: "OptionalWatchBookmarksWithCorrectResourceVersion", run: func(ctx context.Context, t *testing.T) {
		storagetesting.RunTestOptionalWatchBookmarksWithCorrectResourceVersion(ctx, t, decodedEvents{newSubject(t)})
	}},
	{name: "DeleteWithConflictAndMissingExpectedTransformOrDecodeError", gates: unsafeDeletion, run: func(ctx context.Context, t *testing.T) {
		f := &failingTransformer{Transformer: identity.NewEncryptCheckTransformer()}
		storagetesting.RunTestDeleteWithConflictAndMissingExpectedTransformOrDecodeError(ctx, t, newSubject(t, withTransformer(f)), f.fail.Store)
	}},
	{name: "DeleteExpectedTransformError", gates: unsafeDeletion, run: func(ctx context.Context, t *testing.T) {
		f := &failingTransformer{Transformer: identity.NewEncryptCheckTransformer()}
		storagetesting.RunTestDeleteExpectedTransformOrDecodeError(ctx, t, newSubject(t, withTransformer(f)), f.fail.Store)
	}},
	{name: "DeleteExpectedDecodeError", gates: unsafeDeletion, run: func(ctx context.Context, t *testing.T) {
		etcd3.TestOnlySetFatalOnDecodeError(t, false)
		f := &failingCodec{Codec: jsonCodec}
		storagetesting.RunTestDeleteExpectedTransformOrDecodeError(ctx, t, newSubject(t, withCodec(f)), f.fail.Store)
	}},
	{name: "DeleteWithSuggestionAndMissingExpectedTransformOrDecodeError", gates: unsafeDeletion, run: func(ctx context.Context, t *testing.T) {
		storagetesting.RunTestDeleteWithSuggestionAndMissingExpectedTransformOrDecodeError(ctx, t, newSubject(t))
	}},
	{name: "CompactRevision", gates: gates{features.ListFromCacheSnapshot: true}, run: func(ctx context.Context, t *testing.T) {
		s := newSubject(t)
		storagetesting.RunTestCompactRevision(ctx, t, s, s.increase, s.compact)
	}},
	{name: "WatchDispatchBookmarkEvents", run: func(ctx context.Context, t *testing.T) {
		storagetesting.RunTestWatchDispatchBookmarkEvents(ctx, t, newSubject(t), true)
	}},
}

// tests returns all of upstream's tests that run over the cache.
func tests() []conformance {
	all := append([]conformance(nil), special...)
	add := func(of map[string]func(context.Context, *testing.T, storage.Interface), start func(*testing.T) storage.Interface) {
		for name, run := range of {
			all = append(all, conformance{name: name, run: func(ctx context.Context, t *testing.T) { run(ctx, t, start(t)) }})
		}
	}
	add(plain, func(t *testing.T) storage.Interface { return newSubject(t) })
	add(withIndex, func(t *testing.T) storage.Interface { return newSubject(t, withIndexes) })
	add(settled, func(t *testing.T) storage.Interface { return caughtUp{newSubject(t).Cache} })
	return all
}

// variants are the ways in which the cache is fed and answers. only names the tests
// to which a variant can make a difference; nil for all.
var variants = []struct {
	name  string
	gates gates
	only  []string
}{
	{"Default", nil, nil},
	{"WithoutWatchList", gates{features.WatchList: false}, []string{
		"Get", "List", "ConsistentList", "GetListNonRecursive", "NamespaceScopedList", "CompactRevision", "GuaranteedUpdateWithTTL",
		"Watch", "WatchFromZero", "WatchFromNonZero", "DeleteTriggerWatch", "WatchDeleteEventObjectHaveLatestRV", "WatcherTimeout",
		"DelayedWatchDelivery", "ClusterScopedWatch", "NamespaceScopedWatch", "SendInitialEventsBackwardCompatibility",
		"WatchSemantics", "WatchSemanticInitialEventsExtended", "WatchListMatchSingle",
	}},
	{"WithoutSnapshots", gates{features.ListFromCacheSnapshot: false}, []string{
		"List", "ConsistentList", "GetListNonRecursive", "GetListRecursivePrefix", "NamespaceScopedList", "ListPaging",
		"ListContinuation", "ListPaginationRareObject", "ListContinuationWithFilter", "ListResourceVersionMatch",
	}},
	{"WithRangeStreamAndConcurrentDecode", gates{features.EtcdRangeStream: true, features.ConcurrentWatchObjectDecode: true}, []string{
		"List", "Watch", "WatchFromZero", "WatchFromNonZero", "DeleteTriggerWatch", "ClusterScopedWatch", "NamespaceScopedWatch",
		"WatchSemantics", "WatchSemanticInitialEventsExtended", "WatchListMatchSingle",
	}},
}

// TestConformance runs upstream's tests of storage over the cache and a real etcd.
// They run one after the other: some set feature gates themselves, and some have
// objects with a time to live that would pass while others run.
func TestConformance(t *testing.T) {
	for _, variant := range variants {
		t.Run(variant.name, func(t *testing.T) {
			variant.gates.set(t)
			ran := 0
			for _, test := range tests() {
				if variant.only != nil && !slices.Contains(variant.only, test.name) {
					continue
				}
				ran++
				t.Run(test.name, func(t *testing.T) {
					test.gates.set(t)
					test.run(t.Context(), t)
				})
			}
			if variant.only != nil && ran != len(variant.only) {
				t.Errorf("%d tests ran, %d are named: a name is wrong", ran, len(variant.only))
			}
		})
	}
}

// withoutProgress is an etcd that is too old to be asked for progress.
type withoutProgress struct {
	etcdfeature.FeatureSupportChecker
}

func (w withoutProgress) Supports(f storage.Feature) bool {
	return f != storage.RequestWatchProgress && w.FeatureSupportChecker.Supports(f)
}

// TestConformanceOldEtcd runs what is different where etcd cannot be asked for
// progress: lists of the latest state are etcd's own then.
func TestConformanceOldEtcd(t *testing.T) {
	before := etcdfeature.DefaultFeatureSupportChecker
	t.Cleanup(func() { etcdfeature.DefaultFeatureSupportChecker = before })

	t.Run("ConsistentList", func(t *testing.T) {
		s := newSubject(t)
		etcdfeature.DefaultFeatureSupportChecker = withoutProgress{before}
		storagetesting.RunTestConsistentList(t.Context(), t, s, s.increase, true, false,
			utilfeature.DefaultFeatureGate.Enabled(features.ListFromCacheSnapshot))
	})
	// These two are about how etcd's store reports what it cannot read, which is seen
	// through the cache only where it passes lists on.
	corrupt := func(t *testing.T) (overridden, error) {
		transformer := newSwitched(identity.NewEncryptCheckTransformer())
		etcdfeature.DefaultFeatureSupportChecker = before
		o := overridden{newSubject(t, withTransformer(transformer), withoutPrefix), transformer}
		etcdfeature.DefaultFeatureSupportChecker = withoutProgress{before}
		// Only this way is there a value of etcd3's own type for corrupt objects.
		failing := &failingTransformer{}
		failing.fail.Store(true)
		_, _, err := etcd3.WithCorruptObjErrorHandlingTransformer(failing).TransformFromStorage(t.Context(), nil, nil)
		return o, err
	}
	t.Run("GetListWithErrorAggregation", func(t *testing.T) {
		unsafeDeletion.set(t)
		o, err := corrupt(t)
		storagetesting.RunTestGetListWithErrorAggregation(t.Context(), t, aggregated{o, etcd3.NewStoreWithUnsafeCorruptObjectDeletion(o, podResource)}, err)
	})
	t.Run("GetListWithoutErrorAggregation", func(t *testing.T) {
		gates{features.AllowUnsafeMalformedObjectDeletion: false}.set(t)
		o, err := corrupt(t)
		storagetesting.RunTestGetListWithoutErrorAggregation(t.Context(), t, o, err)
	})
}
