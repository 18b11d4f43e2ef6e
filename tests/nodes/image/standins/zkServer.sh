#!/bin/sh
# Stands in for the script of this name in ZooKeeper's distribution: only what the image's
# command asks of it.
[ "$1" = start-foreground ] || { echo "usage: zkServer.sh start-foreground" >&2; exit 1; }
exec /opt/jre/bin/java -Xmx64m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 \
    -Dzookeeper.admin.enableServer=false -cp '/opt/zookeeper/conf:/opt/zookeeper/lib/*' \
    org.apache.zookeeper.server.quorum.QuorumPeerMain /opt/zookeeper/conf/zoo.cfg
