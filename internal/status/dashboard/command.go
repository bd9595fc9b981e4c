// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package dashboard

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/cli-runtime/pkg/genericclioptions"

	"github.com/weir-project/weir/internal/status"
	"github.com/weir-project/weir/internal/status/source"
)

// minInterval is how often the page may ask at most: a server takes half a second to see whether its caches keep up.
const minInterval = time.Second

// options of the command.
type options struct {
	address     string
	port        uint16
	acceptHosts []string
	interval    time.Duration
}

// NewCommand returns "dashboard".
func NewCommand() *cobra.Command {
	o := options{}
	config := genericclioptions.NewConfigFlags(true)
	cmd := &cobra.Command{
		Use:   "dashboard",
		Short: "Show a running weir's status over time, as a page for a browser",
		Long: `Shows what "weir status" shows, and how it changes, on a page for a browser. The page comes from this command, which prints its
address and opens no browser; it needs no network but for the API server, of which it can reach ` + status.Path + ` and nothing else.

It asks the server by its API, as the user of the kubeconfig. That user needs the right to "get" the non-resource URL
` + status.Path + `, which administrators have. The address has a random key in it: whoever has it sees what that user may see, for
as long as the command runs.`,
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
			return o.run(ctx, cmd.OutOrStdout(), cmd.ErrOrStderr(), server)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&o.address, "address", "127.0.0.1", "the IP address to serve the page on")
	flags.Uint16Var(&o.port, "port", 0, "the port to serve the page on; 0 for one that is free")
	flags.StringSliceVar(&o.acceptHosts, "accept-hosts", nil, "names, beside localhost and IP addresses, by which the page may be asked for")
	flags.DurationVar(&o.interval, "interval", 2*time.Second, "how often the page asks")
	config.AddFlags(flags)
	return cmd
}

func (o *options) validate() error {
	switch {
	case net.ParseIP(o.address) == nil:
		return fmt.Errorf("cannot listen on %q: --address takes an IP address", o.address)
	case o.interval < minInterval:
		return fmt.Errorf("cannot ask every %v: --interval takes %v or more", o.interval, minInterval)
	}
	return nil
}

// run serves the page until ctx ends.
func (o *options) run(ctx context.Context, out, warnings io.Writer, server *source.Source) error {
	listener, err := net.Listen("tcp", net.JoinHostPort(o.address, strconv.Itoa(int(o.port))))
	if err != nil {
		return fmt.Errorf("cannot serve the page: %w (give another --address or --port)", err)
	}
	key := rand.Text()
	h, err := newHandler(server, server.Host, key, o.interval, o.acceptHosts)
	if err != nil {
		_ = listener.Close()
		return err
	}
	if ip := net.ParseIP(o.address); !ip.IsLoopback() {
		fmt.Fprintf(warnings, "The page is served on %s without TLS: who sees the traffic can read it, and the key in its address.\n", o.address)
	}
	fmt.Fprintf(out, "%s is shown at http://%s/%s/ until Ctrl-C.\n", server.Host, listener.Addr(), key)

	// Requests end with ctx, so that a server that does not answer keeps nobody.
	page := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second, BaseContext: func(net.Listener) context.Context { return ctx }}
	ended := make(chan error, 1)
	go func() {
		<-ctx.Done()
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		if err := page.Shutdown(closing); err != nil {
			err = page.Close() // who is still reading a second later is not waited for
			ended <- err
			return
		}
		ended <- nil
	}()
	if err := page.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("cannot go on serving the page: %w", err)
	}
	return <-ended
}
