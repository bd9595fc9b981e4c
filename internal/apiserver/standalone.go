// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	netutils "k8s.io/utils/net"
)

// standalone is the mode in which nothing but a data directory is given.
type standalone struct {
	options *Options
	dir     string // absolute
	keys    keyring
	ca      *authority
}

// safeDefaults are the flags that stand-alone mode sets where the command line says
// nothing. A group is set only if none of its flags was given, so that naming one
// certificate file, say, keeps upstream's meaning of all of them.
//
// It is called before the listener is opened and writes nothing.
func (o *Options) safeDefaults() error {
	if !o.changed("bind-address") {
		if err := o.set("bind-address", "127.0.0.1"); err != nil {
			return err
		}
	}
	bind := o.SecureServing.BindAddress
	if bind.IsLoopback() && !o.changed("advertise-address", "endpoint-reconciler-type") {
		// Nobody else can reach a loopback address, and the API forbids one in an
		// Endpoints object: there is nothing to reconcile.
		if err := o.set("advertise-address", bind.String()); err != nil {
			return err
		}
		if err := o.set("endpoint-reconciler-type", "none"); err != nil {
			return err
		}
	}
	if !o.changed("service-cluster-ip-range") {
		cidr := "10.96.0.0/16"
		if netutils.IsIPv6(o.GenericServerRunOptions.AdvertiseAddress) {
			cidr = "fd00:10:96::/112"
		}
		if err := o.set("service-cluster-ip-range", cidr); err != nil {
			return err
		}
	}
	if !o.changed("authorization-mode", "authorization-config") {
		return o.set("authorization-mode", "Node,RBAC")
	}
	return nil
}

// newStandalone generates, under the data directory, the keys and certificates that
// no flag names, and sets their flags.
func newStandalone(o *Options, dir string) (*standalone, error) {
	keys, err := openKeyring(filepath.Join(dir, "pki"))
	if err != nil {
		return nil, err
	}
	s := &standalone{options: o, dir: dir, keys: keys}
	if s.ca, err = keys.authority("ca"); err != nil {
		return nil, err
	}
	for _, step := range []func() error{s.serving, s.clients, s.serviceAccounts, s.frontProxy} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func (s *standalone) serving() error {
	o := s.options
	if o.changed("tls-cert-file", "tls-private-key-file") {
		return nil
	}
	ips := []net.IP{o.SecureServing.BindAddress, o.GenericServerRunOptions.AdvertiseAddress}
	if _, cidr, err := netutils.ParseCIDRSloppy(o.ServiceClusterIPRanges); err == nil {
		if ip, err := netutils.GetIndexedIP(cidr, 1); err == nil {
			ips = append(ips, ip)
		}
	}
	cert, key, err := s.keys.certificate("apiserver", s.ca, serverNames(ips...))
	if err != nil {
		return err
	}
	return o.set("tls-cert-file", cert, "tls-private-key-file", key)
}

func (s *standalone) clients() error {
	if s.options.changed("client-ca-file") {
		return nil
	}
	return s.options.set("client-ca-file", s.keys.path("ca.crt"))
}

func (s *standalone) serviceAccounts() error {
	o := s.options
	if !o.changed("service-account-issuer") {
		if err := o.set("service-account-issuer", "https://kubernetes.default.svc.cluster.local"); err != nil {
			return err
		}
	}
	if o.changed("service-account-signing-key-file", "service-account-key-file", "service-account-signing-endpoint") {
		return nil
	}
	key, err := s.keys.signingKey("service-account")
	if err != nil {
		return err
	}
	return o.set("service-account-signing-key-file", key, "service-account-key-file", key)
}

// frontProxy gives the aggregator an identity towards extension API servers.
func (s *standalone) frontProxy() error {
	o := s.options
	if o.changed("requestheader-client-ca-file", "requestheader-allowed-names", "requestheader-username-headers",
		"requestheader-group-headers", "requestheader-extra-headers-prefix", "proxy-client-cert-file", "proxy-client-key-file") {
		return nil
	}
	ca, err := s.keys.authority("front-proxy-ca")
	if err != nil {
		return err
	}
	cert, key, err := s.keys.certificate("front-proxy-client", ca, clientName("front-proxy-client"))
	if err != nil {
		return err
	}
	return o.set(
		"requestheader-client-ca-file", s.keys.path("front-proxy-ca.crt"),
		"requestheader-allowed-names", "front-proxy-client",
		"requestheader-username-headers", "X-Remote-User",
		"requestheader-group-headers", "X-Remote-Group",
		"requestheader-extra-headers-prefix", "X-Remote-Extra-",
		"proxy-client-cert-file", cert,
		"proxy-client-key-file", key,
	)
}

// kubeconfig writes admin.kubeconfig for the server at address and returns its path
// and the client configuration in it. Both are zero if --client-ca-file names somebody
// else's CA: then only its owner can make an admin.
func (s *standalone) kubeconfig(address net.Addr) (string, *rest.Config, error) {
	if s.options.Authentication.ClientCert.ClientCA != s.keys.path("ca.crt") {
		return "", nil, nil
	}
	certFile, keyFile, err := s.keys.certificate("admin", s.ca, clientName("weir-admin", "system:masters"))
	if err != nil {
		return "", nil, err
	}
	serverCA := s.ca.pem
	if own := s.options.SecureServing.ServerCert.CertKey.CertFile; own != "" && own != s.keys.path("apiserver.crt") {
		// A certificate of the user's own: it is what the admin has to trust.
		if serverCA, err = os.ReadFile(own); err != nil {
			return "", nil, fmt.Errorf("cannot read the serving certificate for admin.kubeconfig: %w", err)
		}
	}
	cert, err := os.ReadFile(certFile)
	if err != nil {
		return "", nil, fmt.Errorf("cannot read the admin certificate: %w", err)
	}
	key, err := os.ReadFile(keyFile)
	if err != nil {
		return "", nil, fmt.Errorf("cannot read the admin key: %w", err)
	}

	config := clientcmdapi.NewConfig()
	config.Clusters["weir"] = &clientcmdapi.Cluster{Server: serverURL(address), CertificateAuthorityData: serverCA}
	config.AuthInfos["admin"] = &clientcmdapi.AuthInfo{ClientCertificateData: cert, ClientKeyData: key}
	config.Contexts["weir"] = &clientcmdapi.Context{Cluster: "weir", AuthInfo: "admin"}
	config.CurrentContext = "weir"
	data, err := clientcmd.Write(*config)
	if err != nil {
		return "", nil, fmt.Errorf("cannot encode admin.kubeconfig: %w", err)
	}
	path := filepath.Join(s.dir, "admin.kubeconfig")
	if err := writeFile(path, data, 0o600); err != nil {
		return "", nil, err
	}
	client, err := clientcmd.RESTConfigFromKubeConfig(data)
	if err != nil {
		return "", nil, fmt.Errorf("cannot read back %s: %w", path, err)
	}
	return path, client, nil
}

// serverURL is the address a client on this host uses.
func serverURL(address net.Addr) string {
	tcp, ok := address.(*net.TCPAddr)
	if !ok {
		return "https://" + address.String()
	}
	ip := tcp.IP
	if ip.IsUnspecified() {
		ip = net.IPv4(127, 0, 0, 1)
	}
	return "https://" + net.JoinHostPort(ip.String(), strconv.Itoa(tcp.Port))
}

// set gives flags values as the command line would: name, value, name, value.
func (o *Options) set(namesAndValues ...string) error {
	for i := 0; i+1 < len(namesAndValues); i += 2 {
		name, value := namesAndValues[i], namesAndValues[i+1]
		for _, set := range o.flags.FlagSets {
			if set.Lookup(name) == nil {
				continue
			}
			if err := set.Set(name, value); err != nil {
				return fmt.Errorf("cannot set --%s=%s: %w", name, value, err)
			}
			break
		}
	}
	return nil
}
