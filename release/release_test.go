// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// fake releases files that stand for binaries.
func fake(t *testing.T) *release {
	t.Helper()
	r := &release{
		dist: t.TempDir(), version: "v0.1.0", kubernetes: "v1.37.2", image: "weir.local/kube-apiserver",
		certificates: filepath.Join(t.TempDir(), "authorities"), time: time.Unix(1_700_000_000, 0).UTC(), files: "files",
	}
	if err := os.WriteFile(r.certificates, []byte("a certificate"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, arch := range arches {
		if err := os.WriteFile(r.binary(arch), bytes.Repeat([]byte(arch), 100_000), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.run(); err != nil {
		t.Fatal(err)
	}
	return r
}

// entries returns the files of an image, and the heads of all that is in it.
func entries(t *testing.T, image v1.Image) (map[string]string, map[string]*tar.Header) {
	t.Helper()
	layers, err := image.Layers()
	if err != nil {
		t.Fatal(err)
	}
	text, heads := map[string]string{}, map[string]*tar.Header{}
	for _, l := range layers {
		r, err := l.Uncompressed()
		if err != nil {
			t.Fatal(err)
		}
		for in := tar.NewReader(r); ; {
			h, err := in.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(in)
			if err != nil {
				t.Fatal(err)
			}
			text[h.Name], heads[h.Name] = string(body), h
		}
	}
	return text, heads
}

// TestImage: the archive is read by who reads those of docker, and what is in it is where upstream's image has it.
func TestImage(t *testing.T) {
	r := fake(t)
	for _, arch := range arches {
		path := filepath.Join(r.dist, "weir-v0.1.0-linux-"+arch+".tar")
		manifest, err := tarball.LoadManifest(func() (io.ReadCloser, error) { return os.Open(path) })
		if err != nil {
			t.Fatal(err)
		}
		if tags := manifest[0].RepoTags; len(tags) != 1 || tags[0] != "weir.local/kube-apiserver:v0.1.0-v1.37.2" {
			t.Errorf("tags %q", tags)
		}
		image, err := tarball.ImageFromPath(path, nil)
		if err != nil {
			t.Fatal(err)
		}
		config, err := image.ConfigFile()
		if err != nil {
			t.Fatal(err)
		}
		if config.Architecture != arch || config.OS != "linux" || config.Config.User != "" ||
			strings.Join(config.Config.Entrypoint, " ") != "/usr/local/bin/kube-apiserver" ||
			!strings.Contains(strings.Join(config.Config.Env, " "), "/usr/local/bin:") {
			t.Errorf("%s: %+v", arch, config)
		}
		text, heads := entries(t, image)
		if want := strings.Repeat(arch, 100_000); text["usr/local/bin/kube-apiserver"] != want || heads["usr/local/bin/kube-apiserver"].Mode != 0o755 {
			t.Errorf("%s: the program is not there", arch)
		}
		capability := heads["usr/local/bin/kube-apiserver"].PAXRecords["SCHILY.xattr.security.capability"]
		if want := "\x01\x00\x00\x02\x00\x04" + strings.Repeat("\x00", 14); capability != want {
			t.Errorf("the capability is %q, want %q", capability, want)
		}
		if link := heads["usr/local/bin/weir"]; link == nil || link.Linkname != "kube-apiserver" {
			t.Errorf("weir is %+v", link)
		}
		if tmp := heads["tmp/"]; tmp == nil || tmp.Mode != 0o1777 {
			t.Errorf("/tmp is %+v", tmp)
		}
		if text[certificates] != "a certificate" || !strings.Contains(text["etc/passwd"], "nonroot") {
			t.Error("the system is not whole")
		}
	}
}

// TestLayout: the layout has the image of each architecture, the same as the archives.
func TestLayout(t *testing.T) {
	r := fake(t)
	top, err := layout.ImageIndexFromPath(filepath.Join(r.dist, "oci"))
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := top.IndexManifest()
	if err != nil || len(manifest.Manifests) != 1 {
		t.Fatalf("%+v, %v", manifest, err)
	}
	index, err := top.ImageIndex(manifest.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	if manifest, err = index.IndexManifest(); err != nil || len(manifest.Manifests) != len(arches) {
		t.Fatalf("%+v, %v", manifest, err)
	}
	for i, arch := range arches {
		m := manifest.Manifests[i]
		if m.Platform == nil || m.Platform.Architecture != arch {
			t.Errorf("image %d is of %+v, want %s", i, m.Platform, arch)
		}
		image, err := index.Image(m.Digest)
		if err != nil {
			t.Fatal(err)
		}
		archived, err := tarball.ImageFromPath(filepath.Join(r.dist, "weir-v0.1.0-linux-"+arch+".tar"), nil)
		if err != nil {
			t.Fatal(err)
		}
		a, err := image.ConfigName()
		if err != nil {
			t.Fatal(err)
		}
		if b, err := archived.ConfigName(); err != nil || a != b {
			t.Errorf("%s: the layout has %v, the archive %v (%v)", arch, a, b, err)
		}
	}
}

// TestSums: the list has every file, and holds; and the same files are made again.
func TestSums(t *testing.T) {
	one, two := fake(t), fake(t)
	read := func(r *release) string {
		text, err := os.ReadFile(filepath.Join(r.dist, sums))
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	got := read(one)
	if got != read(two) {
		t.Errorf("the same binaries make different files:\n%s\n%s", got, read(two))
	}
	for _, want := range []string{"  weir-linux-amd64\n", "  weir-v0.1.0-linux-arm64.tar\n", "  weir_0.1.0_amd64.deb\n", "  oci/index.json\n"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is missing:\n%s", want, got)
		}
	}
	if tool, err := exec.LookPath("sha256sum"); err == nil {
		cmd := exec.Command(tool, "--check", "--quiet", sums)
		cmd.Dir = one.dist
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("sha256sum: %v\n%s", err, out)
		}
	}
}

// TestPackage: dpkg reads the package, where there is one.
func TestPackage(t *testing.T) {
	tool, err := exec.LookPath("dpkg-deb")
	if err != nil {
		t.Skip("there is no dpkg-deb")
	}
	r := fake(t)
	path := filepath.Join(r.dist, "weir_0.1.0_amd64.deb")
	out, err := exec.Command(tool, "--contents", path).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, want := range []string{"./usr/bin/weir\n", "./usr/lib/weir/kube-apiserver -> /usr/bin/weir", "./usr/lib/systemd/system/weir.service\n", "./etc/default/weir\n"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("%q is missing:\n%s", want, out)
		}
	}
	out, err = exec.Command(tool, "--field", path, "Package", "Version", "Architecture").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "Version: 0.1.0\n") || !strings.Contains(string(out), "Architecture: amd64") {
		t.Errorf("%v: %s", err, out)
	}
	if unit, err := os.ReadFile("files/weir.service"); err != nil || !strings.Contains(string(unit), "\nMemoryMax=") {
		t.Errorf("the unit has no limit of memory (%v)", err)
	}
}

// TestMissing: what is missing is named.
func TestMissing(t *testing.T) {
	r := &release{dist: t.TempDir(), version: "v1", kubernetes: "v1"}
	if err := r.run(); err == nil || !strings.Contains(err.Error(), "weir-linux-amd64") {
		t.Errorf("%v", err)
	}
	if err := (&release{}).run(); err == nil || !strings.Contains(err.Error(), "--version") {
		t.Errorf("%v", err)
	}
}
