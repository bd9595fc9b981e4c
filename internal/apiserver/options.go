// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"io"
	"net"

	"github.com/spf13/pflag"
	cliflag "k8s.io/component-base/cli/flag"
	"k8s.io/kubernetes/cmd/kube-apiserver/app/options"

	"github.com/weir-project/weir/internal/pacer"
)

// DefaultDataDir is where `weir serve` keeps its files when --data-dir is not given.
const DefaultDataDir = "weir-data"

// Options say how to run one server: everything that kube-apiserver's flags say,
// and weir's own. Make them with NewOptions, parse flags into Flags, then Run.
// One Options serves one Run.
type Options struct {
	*options.ServerRunOptions

	// DataDir is the directory of stand-alone mode. Empty: no stand-alone mode, and
	// without --etcd-servers upstream's error.
	DataDir string

	// MemoryLimit is what --memory-limit says: a number of bytes, 0 for none, or
	// pacer.Automatic, the default, for that of the control group.
	MemoryLimit int64

	// Listener, if set, is served instead of --bind-address and --secure-port. Run
	// owns it.
	Listener net.Listener

	// Progress, if set, is told how the start and the end go on: by several goroutines, but by one at a
	// time of a stage. Not after Run has returned.
	Progress func(Progress)
	// Log is where the embedded etcd writes to, beside the process's log; os.Stderr if nil.
	Log io.Writer

	flags cliflag.NamedFlagSets
	// waited says that the port was taken at first.
	waited bool
}

// NewOptions returns upstream's defaults with the given default of --data-dir.
func NewOptions(dataDir string) *Options {
	o := &Options{ServerRunOptions: options.NewServerRunOptions(), DataDir: dataDir, MemoryLimit: pacer.Automatic}
	o.flags = o.ServerRunOptions.Flags()
	o.flags.FlagSet("weir").StringVar(&o.DataDir, "data-dir", o.DataDir, ""+
		"The directory of the embedded etcd and of everything that is generated: certificates, keys, admin.kubeconfig. "+
		"Used when --etcd-servers is not given.")
	o.flags.FlagSet("weir").Var((*memoryLimit)(&o.MemoryLimit), memoryLimitFlag, memoryLimitHelp)
	o.flags.Order = append([]string{"weir"}, o.flags.Order[:len(o.flags.Order)-1]...)
	return o
}

// Flags returns every flag by section, weir's own first. The sets belong to o.
func (o *Options) Flags() *cliflag.NamedFlagSets { return &o.flags }

// Parse returns options with the given arguments parsed, as a command would.
func Parse(args ...string) (*Options, error) {
	o := NewOptions("")
	fs := pflag.NewFlagSet("weir", pflag.ContinueOnError)
	fs.SetNormalizeFunc(cliflag.WordSepNormalizeFunc)
	for _, set := range o.flags.FlagSets {
		fs.AddFlagSet(set)
	}
	return o, fs.Parse(args)
}

// StandAlone reports whether Run brings its own etcd. False also where the flags contradict each other.
func (o *Options) StandAlone() bool {
	embedded, err := o.standalone()
	return err == nil && embedded
}

// changed reports whether any of the named flags was given.
func (o *Options) changed(names ...string) bool {
	for _, set := range o.flags.FlagSets {
		for _, name := range names {
			if set.Changed(name) {
				return true
			}
		}
	}
	return false
}
