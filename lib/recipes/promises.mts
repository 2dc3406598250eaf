export * from './promises.js'
