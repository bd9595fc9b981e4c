// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/term"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/server/flagz"
	cliflag "k8s.io/component-base/cli/flag"
	"k8s.io/component-base/cli/globalflag"
	basecompatibility "k8s.io/component-base/compatibility"
	"k8s.io/component-base/logs"
	logsapi "k8s.io/component-base/logs/api/v1"
	componentterm "k8s.io/component-base/term"
	"k8s.io/component-base/version/verflag"
	"k8s.io/klog/v2"

	"github.com/weir-project/weir/internal/apiserver"
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
certificate where no flag names one.`,
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			verflag.PrintAndExitIfRequested()
			registry := options.GenericServerRunOptions.ComponentGlobalsRegistry
			if err := registry.Set(); err != nil {
				return err
			}
			if err := logsapi.ValidateAndApply(options.Logs, registry.FeatureGateFor(basecompatibility.DefaultKubeComponent)); err != nil {
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
