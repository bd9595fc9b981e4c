// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

// Command weir is a kube-apiserver whose watches stream bytes that were encoded once.
//
//	weir serve [flags]       the server; every flag of kube-apiserver
//	weir status              what a running server holds, and who asks it for what
//	weir dashboard           the same over time, as a page for a browser
//	weir bench SCENARIO      measures servers, this one among them
//	weir version             which weir and which Kubernetes this is
//
// Under the name kube-apiserver it takes the flags directly, so that it can stand
// where that program stands.
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	_ "time/tzdata" // time zones of CronJobs, as in upstream's binary
	"unicode"

	"github.com/spf13/cobra"
	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/logs/json/register"          // --logging-format=json
	_ "k8s.io/component-base/metrics/prometheus/clientgo" // client-go's metrics
	_ "k8s.io/component-base/metrics/prometheus/version"  // kubernetes_build_info
	"k8s.io/component-base/version/verflag"
)

// dropIn is the name under which weir takes kube-apiserver's place.
const dropIn = "kube-apiserver"

func main() {
	cmd := newCommand(filepath.Base(os.Args[0]))
	if err := cli.RunNoErrOutput(cmd); err != nil {
		fmt.Fprintln(os.Stderr, errorLine(cmd, err))
		os.Exit(1)
	}
}

// newCommand returns the command for the name that the program was started by.
func newCommand(name string) *cobra.Command {
	if name == dropIn {
		return newServeCommand(dropIn, "")
	}
	root := &cobra.Command{
		Use:           "weir",
		Short:         "A kube-apiserver whose watches stream bytes that were encoded once",
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			verflag.PrintAndExitIfRequested()
			return cmd.Help()
		},
	}
	root.AddCommand(newServeCommand("serve", defaultDataDir), newBenchCommand(), newStatusCommand(), newDashboardCommand(), newVersionCommand())
	return root
}

// errorLine is what a person gets to read: one line, whatever the error says. Some of it a server has said, so what is not to be
// read, such as a terminal's control sequences, is left out.
func errorLine(cmd *cobra.Command, err error) string {
	words := strings.Join(strings.Fields(err.Error()), " ")
	return cmd.Name() + ": " + strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return unicode.ReplacementChar
	}, words)
}
