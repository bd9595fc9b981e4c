// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package view

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/yaml"

	"github.com/weir-project/weir/internal/status"
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
			source, err := newSource(config.ToRawKubeConfigLoader())
			if err != nil {
				return err
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt)
			defer stop()
			if o.watch {
				return o.live(ctx, source)
			}
			report, err := source.get(ctx)
			if err != nil {
				return err
			}
			return o.write(cmd.OutOrStdout(), report, source.host)
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

// source is a server that is asked.
type source struct {
	host   string
	client rest.Interface
}

// askTime is how long a server may take to answer.
const askTime = 10 * time.Second

func newSource(loader clientcmd.ClientConfig) (*source, error) {
	config, err := loader.ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("cannot find the server: %w (give --kubeconfig, or set KUBECONFIG)", err)
	}
	config.NegotiatedSerializer = scheme.Codecs.WithoutConversion()
	config.Timeout = askTime
	if config.UserAgent == "" {
		config.UserAgent = rest.DefaultKubernetesUserAgent()
	}
	client, err := rest.UnversionedRESTClientFor(config)
	if err != nil {
		return nil, fmt.Errorf("cannot make a client of the kubeconfig: %w", err)
	}
	return &source{host: config.Host, client: client}, nil
}

func (s *source) get(ctx context.Context) (*status.Report, error) {
	result := s.client.Get().AbsPath(status.Path).Do(ctx)
	if err := result.Error(); err != nil { // unlike Raw's, it is what the server has said
		return nil, s.explain(err)
	}
	body, err := result.Raw()
	if err != nil {
		return nil, s.explain(err)
	}
	r := &status.Report{}
	if err := json.Unmarshal(body, r); err != nil {
		return nil, fmt.Errorf("cannot read the status of %s: %w (is it a weir of another release?)", s.host, err)
	}
	return r, nil
}

// explain says what to do about an error.
func (s *source) explain(err error) error {
	var dial *net.OpError
	switch {
	case apierrors.IsNotFound(err):
		return fmt.Errorf("%s has no %s: it is not weir, or an older one, or has its gate EncodedWatchCache off "+
			"(what any kube-apiserver tells of this is in kubectl get --raw /metrics: apiserver_resource_objects, apiserver_longrunning_requests, "+
			"apiserver_request_total, apiserver_response_sizes, process_resident_memory_bytes)", s.host, status.Path)
	case apierrors.IsForbidden(err):
		return fmt.Errorf("%w: the user needs the verb get on the non-resource URL %s (docs/operate.md has a ClusterRole)", err, status.Path)
	case apierrors.IsUnauthorized(err):
		return fmt.Errorf("%s does not know the user of this kubeconfig: %w", s.host, err)
	case errors.As(err, &dial):
		return fmt.Errorf("cannot reach %s: %w (does it run, and do --kubeconfig or KUBECONFIG name its kubeconfig? weir serve writes admin.kubeconfig under --data-dir)", s.host, err)
	default:
		return fmt.Errorf("cannot get the status of %s: %w", s.host, err)
	}
}
