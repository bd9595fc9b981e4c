// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package view

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"sigs.k8s.io/yaml"

	"github.com/weir-project/weir/internal/status"
	"github.com/weir-project/weir/internal/status/source"
)

// options of the command.
type options struct {
	output   string
	sort     string
	all      bool
	watch    bool
	interval time.Duration
}

// NewCommand returns "status".
func NewCommand() *cobra.Command {
	o := options{}
	config := genericclioptions.NewConfigFlags(true)
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show what a running weir holds, who is slow and who asks for what",
		Long: `Shows what a running weir holds in memory, what it keeps of each resource, which watches are behind, and who asks it
for what: by user and user agent, which lists and watches there were, and what was sent.

It asks the server by its API, as the user of the kubeconfig. That user needs the right to "get" the non-resource URL
` + status.Path + `, which administrators have.`,
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := o.validate(); err != nil {
				return err
			}
			server, err := source.New(config.ToRawKubeConfigLoader())
			if err != nil {
				return err
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt)
			defer stop()
			if o.watch {
				return o.live(ctx, server)
			}
			report, err := server.Get(ctx)
			if err != nil {
				return err
			}
			return o.write(cmd.OutOrStdout(), report, server.Host)
		},
	}
	flags := cmd.Flags()
	flags.StringVarP(&o.output, "output", "o", "", "json or yaml in place of tables")
	flags.StringVar(&o.sort, "sort", clientOrders[0].name, "what clients are sorted by: "+strings.Join(names(clientOrders), ", "))
	flags.BoolVar(&o.all, "all", false, "also resources without objects, and all clients")
	flags.BoolVarP(&o.watch, "watch", "w", false, "show it until q is pressed, on a terminal")
	flags.DurationVar(&o.interval, "interval", 2*time.Second, "with --watch: how often to ask")
	config.AddFlags(flags)
	return cmd
}

func (o *options) validate() error {
	switch {
	case o.output != "" && o.output != "json" && o.output != "yaml":
		return fmt.Errorf("cannot show the status as %q: --output takes json or yaml", o.output)
	case !slices.Contains(names(clientOrders), o.sort):
		return fmt.Errorf("cannot sort by %q: --sort takes %s", o.sort, strings.Join(names(clientOrders), ", "))
	case o.watch && o.output != "":
		return errors.New("--watch shows tables: leave out --output, or --watch")
	case o.watch && o.interval < 100*time.Millisecond:
		return fmt.Errorf("cannot ask every %v: --interval takes 100ms or more", o.interval)
	case o.watch && !(term.IsTerminal(int(os.Stdin.Fd())) && term.IsTerminal(int(os.Stdout.Fd()))):
		return errors.New("--watch needs a terminal: leave it out, or use --output")
	}
	return nil
}

func (o *options) write(w io.Writer, r *status.Report, host string) error {
	switch o.output {
	case "json":
		out := json.NewEncoder(w)
		out.SetIndent("", "  ")
		return out.Encode(r)
	case "yaml":
		text, err := yaml.Marshal(r)
		if err != nil {
			return fmt.Errorf("cannot write the status as YAML: %w", err)
		}
		_, err = w.Write(text)
		return err
	}
	t := tables{report: r, host: host, all: o.all, clients: index(clientOrders, o.sort)}
	_, err := io.WriteString(w, strings.Join(t.lines(), "\n")+"\n")
	return err
}
