// Command kube-apiserver runs a Kubernetes API server and its etcd in one process, for tests.
//
// Usage: kube-apiserver DIR [API server flags]
//
// Nothing else of a cluster runs: no scheduler, no controllers, no kubelet. DIR keeps the etcd data and the key that
// signs service account tokens, so a kill followed by a new start is a restart of the API server on the same store.
package main

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
	"k8s.io/client-go/util/keyutil"
	"k8s.io/component-base/cli"
	"k8s.io/kubernetes/cmd/kube-apiserver/app"
)

func main() {
	if len(os.Args) < 2 {
		fail(errors.New("usage: kube-apiserver DIR [API server flags]"))
	}
	dir := os.Args[1]
	key := filepath.Join(dir, "service-account.key")
	if err := ensureKey(key); err != nil {
		fail(err)
	}
	etcd, err := startEtcd(filepath.Join(dir, "etcd"))
	if err != nil {
		fail(err)
	}
	command := app.NewAPIServerCommand()
	command.SetArgs(append([]string{
		"--etcd-servers=" + etcd,
		"--service-account-key-file=" + key,
		"--service-account-signing-key-file=" + key,
		"--service-account-issuer=https://kubernetes.default.svc",
	}, os.Args[2:]...))
	os.Exit(cli.Run(command))
}

// ensureKey writes a fresh private key unless there is one already.
func ensureKey(path string) error {
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	pem, err := keyutil.MakeEllipticPrivateKeyPEM()
	if err != nil {
		return err
	}
	return keyutil.WriteKey(path, pem)
}

// startEtcd serves the store in dir on loopback ports of the system's choice and returns its client URL.
func startEtcd(dir string) (string, error) {
	anyPort := []url.URL{{Scheme: "http", Host: "127.0.0.1:0"}}
	config := embed.NewConfig()
	config.Dir = dir
	config.LogLevel = "error"
	config.UnsafeNoFsync = true
	config.ListenClientUrls, config.AdvertiseClientUrls = anyPort, anyPort
	config.ListenPeerUrls, config.AdvertisePeerUrls = anyPort, anyPort
	config.InitialCluster = config.InitialClusterFromName(config.Name)
	etcd, err := embed.StartEtcd(config)
	if err != nil {
		return "", fmt.Errorf("etcd: %w", err)
	}
	select {
	case <-etcd.Server.ReadyNotify():
		return "http://" + etcd.Clients[0].Addr().String(), nil
	case err := <-etcd.Err():
		return "", fmt.Errorf("etcd: %w", err)
	case <-time.After(time.Minute):
		return "", errors.New("etcd: not ready within a minute")
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}
