// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/weir-project/weir/internal/bench/client"
	"github.com/weir-project/weir/internal/bench/scenario"
	"github.com/weir-project/weir/internal/bench/static"
	"github.com/weir-project/weir/internal/rig"
)

// Program tells bench what the program is that it is part of: targets weir and weir-off are that same program.
type Program struct {
	// ServerName is the name (argv[0]) under which the program is a kube-apiserver.
	ServerName string
	// Off are the server's flags that switch off what sets it apart from upstream's.
	Off []string
}

// NewCommand returns "bench", to be a subcommand of program. It ends with an error, for exit status 1, when any target
// failed, with all that was measured until then on standard output and in results.json.
func NewCommand(program Program) *cobra.Command {
	o := &Options{program: program}
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Measure a kube-apiserver from outside, alone or against others",
		Long: `Measure a kube-apiserver from outside, over its API.

Each scenario starts the target over an etcd of its own, loads the data that it needs, and reports the server's
processor time and resident memory. Clients and etcd run in processes of their own and do not count. With --compare,
targets run one after the other on the same data; compare the figures of one run on one machine only.

Everything is on loopback, in a work directory that is removed in the end unless --work-dir names it.`,
		SilenceUsage: true,
	}
	o.addFlags(cmd.PersistentFlags())
	cmd.AddCommand(
		newStartCommand(o), newMemoryCommand(o),
		newReadCommand(o, "watchlist", "b", []string{scenario.VerbWatchList}, []int{16}, "Watch lists of one dataset, many at once",
			"Modelled on the synthetic test of KEP-3157 (API Streaming), with readers that only drain. "+upstreamPodsHelp),
		newReadCommand(o, "list", "b", []string{scenario.VerbList}, []int{16}, "Lists of one dataset at resourceVersion=0, many at once",
			"Modelled on informers of old clients that all start at once. "+upstreamPodsHelp),
		newReadCommand(o, "configmaps", "c", []string{scenario.VerbList}, []int{1, 4, 16}, "Lists of 10,000 ConfigMaps of 100 KB at resourceVersion=0",
			"Modelled on the test of streaming list encoding (KEP-5116): one large collection, several lists at once."),
		newReadCommand(o, "crs", "d", []string{scenario.VerbList, scenario.VerbWatchList}, []int{16}, "Lists and watch lists of 20,000 custom resources in two served versions",
			"Modelled on a policy or a service mesh controller's resources in a large cluster."),
		newStormCommand(o), newWatchersCommand(o), newFanoutCommand(o), newWritesCommand(o), newStalledCommand(o),
		newInformersScenario(o, "synthetic", "a"), newInformersScenario(o, "pods", "b"),
		newSuiteCommand(o), static.NewCommand(),
	)
	cmd.AddCommand(rig.Commands()...)
	cmd.AddCommand(client.Commands()...)
	return cmd
}

func (o *Options) addFlags(fs *pflag.FlagSet) {
	fs.StringSliceVar(&o.Targets, "target", nil, "what to measure: weir, weir-off (weir's own gates off), stock (upstream's kube-apiserver) or static (the floor: a bare HTTP/2 server that sends the bytes of another target; scenarios that read a collection only)")
	fs.StringSliceVar(&o.Targets, "compare", nil, "several targets, separated by commas; ratios are to the first")
	fs.StringVar(&o.StockBinary, "stock-binary", "", "path of an upstream kube-apiserver, for target stock (default: built from the Go module in the current directory, once)")
	fs.StringVar(&o.WeirBinary, "weir-binary", "", "path of another weir binary, for targets weir and weir-off (default: this program)")
	fs.StringVar(&o.StaticOf, "static-of", "", "the target whose bytes static sends, compressed as that one compresses them (default: the first other target)")
	fs.StringArrayVar(&o.TargetArgs, "target-arg", nil, "another flag for one target, as name=--flag=value; may be repeated")
	fs.StringVar(&o.Kubeconfig, "kubeconfig", "", "measure the existing cluster of this kubeconfig in place of targets; all is done in a namespace that is made for it and removed in the end")
	fs.StringVar(&o.Context, "context", "", "with --kubeconfig: context to use (default: the current one)")
	fs.StringVar(&o.Namespace, "namespace", "", "with --kubeconfig: name of the namespace to make; one that exists is refused (default: a random name)")
	fs.Var(&o.MemoryLimit, "memory-limit", "limit of each target's memory, such as 2Gi, by a control group (Linux); a target that passes it is killed, as in the blog's graph")
	fs.StringArrayVar(&o.MaxRatios, "max-ratio", nil, "fail when a figure of the table, as figure=ratio, is more than ratio times the first target's; may be repeated")
	fs.StringVar(&o.WorkDir, "work-dir", "", "keep etcd's data, keys and logs here, and reuse data that an earlier run loaded (default: a temporary directory)")
	fs.StringVar(&o.OutDir, "out", "weir-bench-results", "directory for results.json and the graphs")
	fs.IntVar(&o.Secrets, "secrets", 400, "dataset a: number of Secrets")
	fs.IntVar(&o.SecretBytes, "secret-bytes", 1_000_000, "dataset a: random bytes in each; at most 1 MiB")
	fs.IntVar(&o.Pods, "pods", 30_000, "dataset b: number of Pods, of about 7.5 KB each")
	fs.IntVar(&o.PodBytes, "pod-bytes", 0, "dataset b: about how many bytes each takes in protobuf, made up of more settings; 0 or less than 7,900 leaves them as they are")
	fs.BoolFunc("upstream-pods", fmt.Sprintf("dataset b as in upstream's performance test, which is --pods %d --pod-bytes %d: Pods of about 10 KB, 781 MiB in protobuf a call; flags after this one change it", upstreamPods, upstreamPodBytes), func(string) error {
		o.Pods, o.PodBytes = upstreamPods, upstreamPodBytes
		return nil
	})
	fs.IntVar(&o.ConfigMaps, "configmaps", 10_000, "dataset c: number of ConfigMaps")
	fs.IntVar(&o.ConfigMapBytes, "configmap-bytes", 100_000, "dataset c: bytes in each")
	fs.IntVar(&o.CustomResources, "custom-resources", 20_000, "dataset d: number of custom resources, of about 1.75 KB of JSON each")
	fs.IntVar(&o.LoadWriters, "load-writers", 16, "clients that load data in parallel")
	fs.StringSliceVar(&o.ExtraData, "data", nil, "datasets to load beside those that the scenario reads: a, b, c, d")
	fs.IntVar(&o.Rounds, "rounds", 0, "how often to measure each target; several take turns A B B A (default: as the scenario says)")
	fs.BoolVar(&o.Gobench, "gobench", false, "print lines that benchstat reads (benchstat -col /target) in place of the table")
	fs.StringVar(&o.PprofDir, "pprof", "", "save processor and heap profiles of every phase into this directory; costs the server some processor time")
	fs.IntVar(&o.PprofSeconds, "pprof-seconds", 5, "length of one processor profile; as many are taken as the phase lasts")
}

// Upstream's performance test: clusterloader2/testing/watch-list of kubernetes/perf-tests since July 2026, which tells of about
// 781 MB in protobuf a call; 80,000 times 10 KiB is 781 MiB.
const (
	upstreamPods     = 80_000
	upstreamPodBytes = 10_240

	upstreamPodsHelp = "With --upstream-pods,\nthe data of upstream's present performance test (kubernetes/perf-tests, watch-list): 80,000 Pods of about 10 KB."
)

// scenarioCommand is a subcommand that runs what scenarios gives. It is called when the flags are parsed.
func scenarioCommand(o *Options, use, short, modelled string, scenarios func() ([]scenario.Scenario, error)) *cobra.Command {
	return &cobra.Command{
		Use:   use,
		Short: short,
		Long:  short + ".\n\n" + modelled,
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			list, err := scenarios()
			if err != nil {
				return err
			}
			self, err := rig.ThisProgram()
			if err != nil {
				return err
			}
			// "weir bench watchlist" starts "weir bench internal-etcd".
			self.Prefix = strings.Fields(cmd.Parent().CommandPath())[1:]
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
			defer stop()
			// Without this the program would end at once, and leave everything behind, when nobody reads its output any more.
			broken := make(chan os.Signal, 1)
			signal.Notify(broken, syscall.SIGPIPE)
			defer signal.Stop(broken)
			context.AfterFunc(ctx, stop) // a second signal ends the program at once
			err = o.run(ctx, self, cmd.OutOrStdout(), cmd.ErrOrStderr(), list...)
			if err != nil { // several, perhaps, and a program ends with one line
				return errors.New(strings.ReplaceAll(err.Error(), "\n", "; "))
			}
			return nil
		},
	}
}

func newStartCommand(o *Options) *cobra.Command {
	sc := &scenario.Start{}
	cmd := scenarioCommand(o, "start", "Memory and time of a start over the data",
		"Modelled on a control plane's restart with a full etcd, before any client comes.",
		func() ([]scenario.Scenario, error) { return []scenario.Scenario{sc}, nil })
	cmd.Flags().DurationVar(&sc.Settle, "settle", time.Minute, "how long to wait, once the server is idle, before memory is read")
	return cmd
}

func newMemoryCommand(o *Options) *cobra.Command {
	sc := &scenario.Memory{}
	cmd := scenarioCommand(o, "memory", "Memory over a server's life: start, rest, lists and watch lists in every form, rest",
		"Modelled on a control plane that all sorts of clients come back to. One server serves all of it, so that its highest memory\nis that of everything; what it holds at rest afterwards is told as a ratio to what it held before.",
		func() ([]scenario.Scenario, error) { return []scenario.Scenario{sc}, positive("streams", sc.Streams) })
	cmd.Flags().DurationVar(&sc.Settle, "settle", time.Minute, "how long to wait, each time, before memory at rest is read")
	cmd.Flags().IntVar(&sc.Streams, "streams", 16, "concurrent requests of each form")
	return cmd
}

// newReadCommand makes one of the scenarios that read a collection. dataset is the one it reads unless the user says
// another.
func newReadCommand(o *Options, name, dataset string, verbs []string, streams []int, short, modelled string) *cobra.Command {
	sc := &scenario.Read{Command: name, Verbs: verbs}
	var cmd *cobra.Command
	cmd = scenarioCommand(o, name, short, modelled, func() ([]scenario.Scenario, error) {
		if err := servedFormat(sc.Dataset, &sc.Format, cmd.Flag("format").Changed); err != nil {
			return nil, err
		}
		if sc.Again < 1 || sc.Repeat < 1 || slices.ContainsFunc(sc.Streams, func(n int) bool { return n < 1 }) {
			return nil, errors.New("--streams, --again and --repeat must be at least 1")
		}
		if sc.Format == client.FormatTable && slices.Contains(sc.Verbs, scenario.VerbWatchList) {
			return nil, errors.New("--format table is for lists only")
		}
		return []scenario.Scenario{sc}, positive("per-connection", sc.PerConnection)
	})
	if slices.Contains(verbs, scenario.VerbList) {
		cmd.Flags().BoolVar(&sc.Consistent, "consistent", false, "ask for lists without resourceVersion=0: the newest state, which takes etcd's word")
	}
	cmd.Flags().StringVar(&sc.Dataset, "dataset", dataset, datasetHelp)
	addFormat(cmd.Flags(), &sc.Format)
	addGzip(cmd.Flags(), &sc.Gzip)
	cmd.Flags().IntSliceVar(&sc.Streams, "streams", streams, "concurrent requests; several numbers are measured one after the other on one server")
	cmd.Flags().IntVar(&sc.PerConnection, "per-connection", 1, "requests that share an HTTP/2 connection")
	cmd.Flags().IntVar(&sc.Again, "again", 1, "how often to measure each on the same server; the first finds nothing that was asked for before, the others do")
	cmd.Flags().IntVar(&sc.Repeat, "repeat", 1, "how often each stream asks in one phase, one time after the other: more to measure where one time takes little")
	cmd.Flags().BoolVar(&sc.Warm, "warm", false, "before each phase, one client asks for the same and does not count: what is measured has been asked for, and made, just before")
	return cmd
}

const datasetHelp = "a (Secrets of 1 MB), b (Pods), c (ConfigMaps of 100 KB) or d (custom resources, in JSON)"

// servedFormat finds out whether a dataset exists and is served in a format, and chooses JSON for custom resources unless the
// user has said what he wants.
func servedFormat(dataset string, f *client.Format, said bool) error {
	if !slices.Contains([]string{"a", "b", "c", "d"}, dataset) {
		return fmt.Errorf("--dataset %q: there are a, b, c and d", dataset)
	}
	if dataset != "d" {
		return nil
	}
	if !said {
		*f = client.FormatJSON
	}
	if *f == client.FormatProtobuf {
		return errors.New("dataset d, custom resources, is not served in protobuf: say --format json")
	}
	return nil
}

func newStormCommand(o *Options) *cobra.Command {
	sc := &scenario.Storm{}
	var cmd *cobra.Command
	cmd = scenarioCommand(o, "storm", "Everybody reconnects at once while the server starts",
		"Modelled on the recovery from an outage of the API Streaming blog post: clients try each second until they have\neverything. The phase begins with the server's start.",
		func() ([]scenario.Scenario, error) {
			if err := servedFormat(sc.Dataset, &sc.Format, cmd.Flag("format").Changed); err != nil {
				return nil, err
			}
			return []scenario.Scenario{sc}, positive("streams", sc.Streams)
		})
	cmd.Flags().StringVar(&sc.Dataset, "dataset", "b", datasetHelp)
	addFormat(cmd.Flags(), &sc.Format)
	addGzip(cmd.Flags(), &sc.Gzip)
	cmd.Flags().IntVar(&sc.Streams, "streams", 64, "clients, each with a connection of its own")
	return cmd
}

func newInformersScenario(o *Options, name, dataset string) *cobra.Command {
	sc := &scenario.Informers{Command: name, Dataset: dataset}
	short, modelled := "client-go informers of 30,000 Pods", "Modelled on controllers that all start at once in a large cluster. "+upstreamPodsHelp
	counts := []int{1, 4, 16}
	if dataset == "a" {
		short = "client-go informers of 400 Secrets of 1 MB"
		counts = []int{1, 4, 16, 64}
		modelled = "Modelled on the synthetic test of KEP-3157 (API Streaming): 400 Secrets of 1 MB, a growing number of informers, the server's\nmemory over time."
	}
	cmd := scenarioCommand(o, name, short, modelled, func() ([]scenario.Scenario, error) {
		if slices.ContainsFunc(sc.Informers, func(n int) bool { return n < 1 }) {
			return nil, errors.New("--informers: each must be at least 1")
		}
		if sc.Format == client.FormatTable || sc.Format == client.FormatMetadata {
			return nil, fmt.Errorf("--format %s: informers need objects", sc.Format)
		}
		return []scenario.Scenario{sc}, nil
	})
	cmd.Long += "\n\nThey ask for what client-go asks for unless told otherwise: watch lists, protobuf, gzip. --watch-list=false, --format json and\n--gzip=false turn each off."
	cmd.Flags().IntSliceVar(&sc.Informers, "informers", counts, "informers at once, each with a connection of its own; measured one number after the other on one server")
	addFormat(cmd.Flags(), &sc.Format)
	cmd.Flags().BoolVar(&sc.WatchList, "watch-list", true, "client-go's gate WatchListClient: ask for watch lists, not lists")
	cmd.Flags().BoolVar(&sc.Gzip, "gzip", true, "ask for compressed responses (false: client-go's DisableCompression)")
	return cmd
}

func newWatchersCommand(o *Options) *cobra.Command {
	sc := &scenario.Watchers{}
	cmd := scenarioCommand(o, "watchers", "Memory of idle watches",
		"Modelled on a large cluster's kubelets and controllers while nothing happens: many watches, 100 to a connection as\nclient-go would have them.",
		func() ([]scenario.Scenario, error) {
			if sc.Scope != scenario.ScopeNamespace && sc.Scope != scenario.ScopeAll {
				return nil, fmt.Errorf("--scope %q: there are %s and %s", sc.Scope, scenario.ScopeNamespace, scenario.ScopeAll)
			}
			if err := positive("count", sc.Count); err != nil {
				return nil, err
			}
			return []scenario.Scenario{sc}, positive("per-connection", sc.PerConnection)
		})
	cmd.Flags().IntVar(&sc.Count, "count", 5000, "watches")
	cmd.Flags().IntVar(&sc.PerConnection, "per-connection", 100, "watches that share an HTTP/2 connection")
	cmd.Flags().StringVar(&sc.Scope, "scope", scenario.ScopeNamespace, "namespace (watch lists of one with three Pods) or all (all Pods, no initial events; upstream's server does not compress those)")
	addFormat(cmd.Flags(), &sc.Format)
	addGzip(cmd.Flags(), &sc.Gzip)
	return cmd
}

func newFanoutCommand(o *Options) *cobra.Command {
	sc := &scenario.Fanout{}
	cmd := scenarioCommand(o, "fanout", "Updates that many watchers see",
		"Modelled on a busy object type with a watcher per node. A watch that the server\ncloses goes on from its last event, as an informer would, and is counted. Fails when a watcher misses an event or gets\none out of order.",
		func() ([]scenario.Scenario, error) {
			for name, v := range map[string]int{"watchers": sc.Watchers, "updates": sc.Updates, "objects": sc.Objects, "per-connection": sc.PerConnection} {
				if err := positive(name, v); err != nil {
					return nil, err
				}
			}
			return []scenario.Scenario{sc}, nil
		})
	cmd.Flags().IntVar(&sc.Watchers, "watchers", 500, "watchers")
	cmd.Flags().IntVar(&sc.Updates, "updates", 1000, "updates, by one writer")
	cmd.Flags().Float64Var(&sc.Rate, "rate", 25, "updates per second; 0 for one after the other without pause")
	cmd.Flags().IntVar(&sc.Objects, "objects", 10, "ConfigMaps that are updated in turn")
	cmd.Flags().IntVar(&sc.ObjectSize, "object-size", 2000, "bytes of content in each")
	cmd.Flags().IntVar(&sc.PerConnection, "per-connection", 1, "watches that share an HTTP/2 connection")
	addFormat(cmd.Flags(), &sc.Format)
	cmd.Flags().BoolVar(&sc.Gzip, "gzip", false, "ask for compressed watches, which have to be watch lists then: upstream's server compresses no others")
	return cmd
}

func newStalledCommand(o *Options) *cobra.Command {
	sc := &scenario.Stalled{}
	cmd := scenarioCommand(o, "stalled", "Watches that nobody reads, while others write",
		"Modelled on clients that hang: in their initial events of one namespace, in those of everything, and on the changes of one\nnamespace, while another one is written to. Tells what the server holds after a quarter of the time and in the end, and how\nmany of the watches have been told 410 then.",
		func() ([]scenario.Scenario, error) {
			for name, v := range map[string]int{"watches": sc.Watches, "objects": sc.Objects} {
				if err := positive(name, v); err != nil {
					return nil, err
				}
			}
			if sc.Rate <= 0 || sc.Lasts <= 0 {
				return nil, fmt.Errorf("--rate and --lasts have to be above 0")
			}
			return []scenario.Scenario{sc}, nil
		})
	cmd.Flags().IntVar(&sc.Watches, "watches", 5, "watches of each of the three kinds")
	cmd.Flags().IntVar(&sc.Objects, "objects", 400, "ConfigMaps in each of the two namespaces")
	cmd.Flags().IntVar(&sc.ObjectSize, "object-size", 10_000, "bytes of content in each")
	cmd.Flags().Float64Var(&sc.Rate, "rate", 100, "writes per second")
	cmd.Flags().DurationVar(&sc.Lasts, "lasts", 10*time.Minute, "how long they are written to")
	addGzip(cmd.Flags(), &sc.Gzip)
	return cmd
}

func newWritesCommand(o *Options) *cobra.Command {
	sc := &scenario.Writes{}
	cmd := scenarioCommand(o, "writes", "Write throughput",
		"Modelled on a few busy controllers. Targets take turns, A B B A, each freshly started: two servers over one etcd would\npay for each other's events.",
		func() ([]scenario.Scenario, error) { return []scenario.Scenario{sc}, positive("writers", sc.Writers) })
	cmd.Flags().IntVar(&sc.Writers, "writers", 8, "clients that write in parallel")
	cmd.Flags().IntVar(&sc.Operations, "operations", 8000, "writes, half creates and half updates")
	cmd.Flags().IntVar(&sc.WarmUp, "warm-up", 1000, "writes before, not measured")
	cmd.Flags().IntVar(&sc.ObjectSize, "object-size", 2000, "bytes of content in each object")
	cmd.Flags().BoolVar(&sc.CreatePods, "create-pods", false, "create Pods like those of dataset b in place of ConfigMaps, and update nothing")
	return cmd
}

func newSuiteCommand(o *Options) *cobra.Command {
	settle := time.Minute
	cmd := scenarioCommand(o, "suite", "All scenarios at their usual parameters",
		"Both datasets are loaded before the first scenario. Each scenario has a freshly started server.",
		func() ([]scenario.Scenario, error) {
			both := []string{"a", "b"}
			list := []scenario.Scenario{&scenario.Start{Settle: settle}}
			for _, data := range []string{"b", "a"} {
				list = append(list,
					watchLists(data, client.FormatProtobuf, 16, 64), watchLists(data, client.FormatJSON, 16))
			}
			return append(list,
				&scenario.Watchers{Count: 5000, PerConnection: 100, Format: client.FormatProtobuf, Scope: scenario.ScopeNamespace, Data: both},
				&scenario.Watchers{Count: 5000, PerConnection: 100, Format: client.FormatProtobuf, Scope: scenario.ScopeAll, Data: both},
				&scenario.Fanout{Watchers: 500, Updates: 1000, Rate: 25, Objects: 10, ObjectSize: 2000, PerConnection: 1, Format: client.FormatProtobuf, Data: both},
				&scenario.Writes{Writers: 8, Operations: 8000, WarmUp: 1000, ObjectSize: 2000, Data: both},
			), nil
		})
	cmd.Flags().DurationVar(&settle, "settle", settle, "start: how long to wait, once the server is idle, before memory is read")
	return cmd
}

func watchLists(dataset string, f client.Format, streams ...int) *scenario.Read {
	return &scenario.Read{Command: scenario.VerbWatchList, Dataset: dataset, Verbs: []string{scenario.VerbWatchList}, Format: f, Streams: streams, PerConnection: 1, Again: 1, Repeat: 1}
}

func positive(name string, v int) error {
	if v < 1 {
		return fmt.Errorf("--%s %d: must be at least 1", name, v)
	}
	return nil
}

func addFormat(fs *pflag.FlagSet, f *client.Format) {
	*f = client.FormatProtobuf
	fs.Var((*formatFlag)(f), "format", "encoding that the readers ask for: protobuf, json, metadata (without all but the objects' metadata, in protobuf), or table (lists only)")
}

func addGzip(fs *pflag.FlagSet, gzip *bool) {
	fs.BoolVar(gzip, "gzip", false, "ask for compressed responses; the table then has what came over the wire and how many responses were compressed")
}

// formatFlag is a format on the command line.
type formatFlag client.Format

func (f *formatFlag) String() string { return string(*f) }
func (f *formatFlag) Type() string   { return "format" }
func (f *formatFlag) Set(s string) error {
	switch client.Format(s) {
	case client.FormatProtobuf, client.FormatJSON, client.FormatTable, client.FormatMetadata:
		*f = formatFlag(s)
		return nil
	}
	return fmt.Errorf("unknown format; there are %s, %s, %s and %s", client.FormatProtobuf, client.FormatJSON, client.FormatTable, client.FormatMetadata)
}
