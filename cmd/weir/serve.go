// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/term"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/server/flagz"
	cliflag "k8s.io/component-base/cli/flag"
	"k8s.io/component-base/cli/globalflag"
	basecompatibility "k8s.io/component-base/compatibility"
	"k8s.io/component-base/featuregate"
	"k8s.io/component-base/logs"
	logsapi "k8s.io/component-base/logs/api/v1"
	componentterm "k8s.io/component-base/term"
	utilversion "k8s.io/component-base/version"
	"k8s.io/component-base/version/verflag"
	"k8s.io/klog/v2"

	"github.com/weir-project/weir/internal/apiserver"
	"github.com/weir-project/weir/internal/buildinfo"
)

const defaultDataDir = apiserver.DefaultDataDir

// newServeCommand returns the command that runs the server, under the given name and
// with the given default of --data-dir. Empty: no stand-alone mode unless asked for.
func newServeCommand(name, dataDir string) *cobra.Command {
	options := apiserver.NewOptions(dataDir)
	flags := options.Flags()
	cmd := &cobra.Command{
		Use:   name,
		Short: "Run the API server",
		Long: `Runs a kube-apiserver whose watches stream bytes that were encoded once. Every flag is kube-apiserver's.

With --etcd-servers it uses that etcd, and every default is kube-apiserver's.

Without it, it runs by itself (stand-alone mode): an embedded etcd, certificates,
keys and admin.kubeconfig under --data-dir, and safe defaults for what no flag says:
  --bind-address=127.0.0.1        reachable from this machine only
  --authorization-mode=Node,RBAC  nobody may do anything without a role
  --service-cluster-ip-range=10.96.0.0/16
  --endpoint-reconciler-type=none while bound to loopback
and a generated CA, serving certificate, service account key and front-proxy
certificate where no flag names one. On a terminal it then shows how it starts, and
writes its log to weir.log under --data-dir. With -v, or any other flag of logging, or
when stderr is no terminal, the log goes to stderr.`,
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			verflag.PrintAndExitIfRequested()
			registry := options.GenericServerRunOptions.ComponentGlobalsRegistry
			if err := registry.Set(); err != nil {
				return err
			}
			gates := registry.FeatureGateFor(basecompatibility.DefaultKubeComponent)
			if quiet(cmd.Flags(), options) {
				return serveQuietly(cmd, options, gates)
			}
			if err := logsapi.ValidateAndApply(options.Logs, gates); err != nil {
				return err
			}
			cliflag.PrintFlags(cmd.Flags())
			return options.Run(genericapiserver.SetupSignalContext(), announce)
		},
	}
	verflag.AddFlags(flags.FlagSet("global"))
	globalflag.AddGlobalFlags(flags.FlagSet("global"), name, logs.SkipLoggingConfigurationFlags())
	options.Flagz = flagz.NamedFlagSetsReader{FlagSets: *flags}
	for _, set := range flags.FlagSets {
		cmd.Flags().AddFlagSet(set)
	}
	cmd.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return fmt.Errorf("%w (%s --help lists all flags)", err, c.CommandPath())
	})
	columns, _, _ := componentterm.TerminalSize(cmd.OutOrStdout())
	cliflag.SetUsageAndHelpFunc(cmd, *flags, columns)
	return cmd
}

// quiet tells whether a person is to be shown how the server starts in place of the log: one who has started it by itself on
// a terminal, and has not said where the log is to go or how much there is to be of it.
func quiet(flags *pflag.FlagSet, options *apiserver.Options) bool {
	if !options.StandAlone() || !term.IsTerminal(int(os.Stderr.Fd())) {
		return false
	}
	asked := false
	flags.Visit(func(f *pflag.Flag) {
		asked = asked || f.Name == "v" || f.Name == "vmodule" || strings.HasPrefix(f.Name, "log-") || strings.HasPrefix(f.Name, "logging-")
	})
	return !asked
}

// serveQuietly runs a stand-alone server with the log in a file and its start and end on the terminal.
func serveQuietly(cmd *cobra.Command, options *apiserver.Options, gates featuregate.FeatureGate) error {
	logs := newLogFile()
	if err := logsapi.ValidateAndApplyWithOptions(options.Logs, &logsapi.LoggingOptions{ErrorStream: logs, InfoStream: logs}, gates); err != nil {
		return err
	}
	cliflag.PrintFlags(cmd.Flags())
	screen := newConsole(os.Stderr, filepath.Join(options.DataDir, logName), os.Getenv("TERM") != "dumb")
	ctx, cancel := context.WithCancelCause(genericapiserver.SetupSignalContext())
	defer cancel(nil)
	options.Log = logs
	options.Progress = func(p apiserver.Progress) {
		if p.Stage == apiserver.StageDirectory && p.Over {
			if err := logs.open(p.Detail); err != nil {
				cancel(err)
			}
		}
		screen.progress(p)
	}
	fmt.Fprintf(os.Stderr, "weir %s, Kubernetes %s\n", buildinfo.Get().Version, utilversion.Get().GitVersion)
	err := options.Run(ctx, func(r apiserver.Ready) {
		klog.InfoS("Ready", "url", r.URL, "etcd", r.Etcd, "kubeconfig", r.Kubeconfig)
		screen.ready(r)
	})
	if cause := context.Cause(ctx); err == nil && cause != nil && !errors.Is(cause, context.Canceled) {
		err = cause
	}
	klog.Flush()
	screen.close(err)
	if name := logs.name(); err != nil && name != "" {
		err = fmt.Errorf("%w (the log is in %s)", err, name)
	}
	return err
}

// announce says that the server is ready: to a person in a few lines, else in the log.
func announce(r apiserver.Ready) {
	klog.InfoS("Ready", "url", r.URL, "etcd", r.Etcd, "kubeconfig", r.Kubeconfig)
	if term.IsTerminal(int(os.Stdout.Fd())) {
		describe(os.Stdout, r)
	}
}

// describe writes where the server is and what to try next.
func describe(w io.Writer, r apiserver.Ready) {
	fmt.Fprintf(w, "\nweir serves %s\n", r.URL)
	fmt.Fprintf(w, "  etcd  %s\n", r.Etcd)
	if r.Kubeconfig != "" {
		fmt.Fprintf(w, "  try   kubectl --kubeconfig %s get namespaces\n", r.Kubeconfig)
	}
	fmt.Fprintln(w)
}
