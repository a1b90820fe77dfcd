import { Metastore } from '../snapshot/metastore.js';

/** Makes and commits snapshots, and tells of each that is durable, until it is killed. Arguments: the store, and a name to begin with. */
const [path, prefix] = process.argv.slice(2);

const store = new Metastore(path);
const write = async (writer: number) => {
  for (let i = 0; ; i++) {
    const name = `${prefix} ${writer} ${i}`;
    await store.create({ id: store.takeId(), name: `${name} active`, kind: 'active', parent: '', labels: { name } });
    await store.commit(`${name} active`, name, { labels: { name }, usage: { size: i, inodes: 1 }, parent: '' });
    process.send!(name);
  }
};
await Promise.all([write(0), write(1), write(2)]);
