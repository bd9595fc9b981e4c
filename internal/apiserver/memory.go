// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"errors"
	"fmt"

	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/api/resource"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/klog/v2"

	"github.com/weir-project/weir/internal/pacer"
)

const memoryLimitFlag = "memory-limit"

const memoryLimitHelp = "How much memory the server may take in all, as a quantity such as 1Gi. " +
	"Not given, it is that of the server's control group, if that has one (cgroup v1 or v2); 0 is no limit. " +
	"Go's collector gets seven eighths of it, or what GOMEMLIMIT in the environment says. " +
	"Near the limit, history and encodings that can be made again are let go of."

// memoryLimit is the value of --memory-limit: a number of bytes, 0 or pacer.Automatic.
type memoryLimit int64

var _ pflag.Value = (*memoryLimit)(nil)

// Set implements pflag.Value. pflag names the flag in front of the error.
func (m *memoryLimit) Set(text string) error {
	q, err := resource.ParseQuantity(text)
	switch {
	case err != nil:
		return fmt.Errorf("%w (give a quantity such as 1Gi, or 0 for no limit)", err)
	case q.Sign() < 0:
		return errors.New("it is no number of bytes (give a quantity such as 1Gi, or 0 for no limit)")
	case q.Sign() > 0 && q.CmpInt64(pacer.LeastLimit) < 0:
		return fmt.Errorf("a server without data takes about half of %v: give at least that, or 0 for no limit", resource.NewQuantity(pacer.LeastLimit, resource.BinarySI))
	}
	*m = memoryLimit(q.Value())
	return nil
}

// String implements pflag.Value.
func (m *memoryLimit) String() string {
	if *m == pacer.Automatic {
		return ""
	}
	return resource.NewQuantity(int64(*m), resource.BinarySI).String()
}

// Type implements pflag.Value.
func (m *memoryLimit) Type() string { return "quantity" }

// limit finds the limit of this process and tells Go's runtime, until undo is called. With weir's cache switched off it is as with
// upstream: only what the flag says counts.
func (o *Options) limit() (l pacer.Limit, undo func()) {
	if o.MemoryLimit == pacer.Automatic && !utilfeature.DefaultFeatureGate.Enabled(EncodedWatchCache) {
		return pacer.Limit{}, func() {}
	}
	l, err := pacer.FindLimit(o.MemoryLimit)
	if err != nil {
		klog.ErrorS(err, "No limit is known to the server (give one with --memory-limit)")
	}
	if l.Go > 0 {
		klog.InfoS("Memory is limited", "by", l.Source, "bytes", l.Total, "collector", l.Go)
	}
	return l, l.Set()
}
